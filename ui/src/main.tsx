/** Where the page begins. */

import { render } from "preact";
import { Session } from "./api/session";
import { App } from "./app";
import "./shell/theme";
import "./styles/main.css";

const session = new Session();
const root = document.getElementById("page");
// The door must not flash by when the cookie still holds.
await session.resume();
if (root) render(<App session={session} />, root);
