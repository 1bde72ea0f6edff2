/** Name of the product, who is signed in, and the ways out. */

import type { JSX } from "preact";
import type { Session } from "../api/session";
import type { User } from "../api/shapes";
import { Icon, Logo } from "./icons";
import { theme, toggleTheme } from "./theme";

interface Props {
  readonly session: Session;
  readonly user: User;
  readonly onSide: () => void;
}

export function TopBar({ session, user, onSide }: Props): JSX.Element {
  return (
    <header class="top">
      <button type="button" class="icon-button" aria-label="Show or hide the explorer" title="Explorer" onClick={onSide}>
        <Icon name="side" />
      </button>
      <Logo />
      <strong class="top-name">KalamDB</strong>
      <span class="top-host">{location.host}</span>
      <span class="toolbar-gap" />
      <ThemeButton />
      <span class="who" title={`signed in as ${user.name}, role ${user.role}`}>
        <span class="who-face" aria-hidden="true">
          {String.fromCodePoint(user.name.codePointAt(0) ?? 63).toUpperCase()}
        </span>
        <span class="who-name">{user.name}</span>
        <span class="who-role">{user.role}</span>
      </span>
      <button
        type="button"
        class="icon-button"
        aria-label="Sign out, everywhere"
        title="Sign out, everywhere"
        onClick={() => void session.signOut()}
      >
        <Icon name="leave" />
      </button>
    </header>
  );
}

export function ThemeButton(): JSX.Element {
  const dark = theme.value === "dark";
  const label = dark ? "Light colours" : "Dark colours";
  return (
    <button type="button" class="icon-button" aria-label={label} title={label} onClick={toggleTheme}>
      <Icon name={dark ? "sun" : "moon"} />
    </button>
  );
}
