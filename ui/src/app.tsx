/** Signed in or not: the door, or the view behind it. */

import type { ComponentType, JSX } from "preact";
import { useEffect, useState } from "preact/hooks";
import type { Session } from "./api/session";
import { ThemeButton, TopBar } from "./shell/topbar";
import { SignIn } from "./signin/signin";

type View = ComponentType<{ session: Session; sideOpen: boolean; onTaken: () => void }>;

/** Here the explorer lies over the rest. */
const narrow = matchMedia("(max-width: 760px)");

export function App({ session }: { readonly session: Session }): JSX.Element {
  const [View, setView] = useState<View | null>(null);
  const [sideOpen, setSideOpen] = useState(!narrow.matches);
  const [late, setLate] = useState(false);
  useEffect(() => {
    // The door is drawn at once; what is behind it comes while somebody types.
    import("./studio/view").then(
      (module) => setView(() => module.default),
      () => setLate(true),
    );
    const fit = (): void => setSideOpen(!narrow.matches);
    narrow.addEventListener("change", fit);
    return () => narrow.removeEventListener("change", fit);
  }, []);
  const onTaken = (): void => {
    if (narrow.matches) setSideOpen(false);
  };
  const user = session.user.value;
  if (user === null) {
    return (
      <>
        <div class="door-theme">
          <ThemeButton />
        </div>
        <SignIn session={session} />
      </>
    );
  }
  return (
    <div class="app">
      <TopBar session={session} user={user} onSide={() => setSideOpen(!sideOpen)} />
      <main class="app-view">
        {View ? (
          <View key={user.name} session={session} sideOpen={sideOpen} onTaken={onTaken} />
        ) : (
          late && <Stale />
        )}
      </main>
    </div>
  );
}

function Stale(): JSX.Element {
  return (
    <div class="said">
      <p>A part of the page could not be loaded; the server may have been updated.</p>
      <button type="button" class="button" onClick={() => location.reload()}>
        Load it again
      </button>
    </div>
  );
}
