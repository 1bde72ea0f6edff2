/** How the command key is called on this machine. */

export const MOD = navigator.userAgent.includes("Mac") ? "⌘" : "Ctrl";
