/** Sign in; on a node without a root password, the first setup. */

import type { ComponentChildren, JSX, TargetedEvent } from "preact";
import { useEffect, useState } from "preact/hooks";
import { Refused, type Session } from "../api/session";
import type { Fault } from "../api/shapes";
import { Icon, Logo } from "../shell/icons";

export function SignIn({ session }: { readonly session: Session }): JSX.Element {
  const [setup, setSetup] = useState(false);
  useEffect(() => {
    void session.needsSetup().then(setSetup);
  }, [session]);
  return (
    <main class="door">
      <section class="door-words">
        <Logo />
        <h1>
          Ask once.
          <br />
          <span>Stay current.</span>
        </h1>
        <p>
          SQL for agents and chat. Every user has rows of their own, and a query you leave open changes
          as the rows do.
        </p>
        <Sample />
      </section>
      <section class="door-form">
        {setup ? <SetupForm session={session} /> : <SignInForm session={session} onSetup={() => setSetup(true)} />}
      </section>
    </main>
  );
}

function SignInForm({ session, onSetup }: { session: Session; onSetup: () => void }): JSX.Element {
  const submit = async (read: (name: string) => string): Promise<void> => {
    try {
      await session.signIn(read("user"), read("password"));
    } catch (error) {
      if (error instanceof Refused && error.fault.code === "SETUP_REQUIRED") onSetup();
      throw error;
    }
  };
  return (
    <Form title="Sign in" verb="Sign in" submit={submit}>
      <Field name="user" label="User" autocomplete="username" />
      <Field name="password" label="Password" secret autocomplete="current-password" />
      <details class="door-hint">
        <summary>First time here?</summary>
        <p>
          At its first start the server makes the user <code>root</code> and prints a password for it, once, in
          its terminal. It can also be given: <code>KALAMDB_ROOT_PASSWORD</code>. Root then makes others with{" "}
          <code>CREATE USER</code>.
        </p>
      </details>
    </Form>
  );
}

function SetupForm({ session }: { readonly session: Session }): JSX.Element {
  const submit = (read: (name: string) => string): Promise<void> =>
    session.setUp({ user: read("user"), password: read("password"), root_password: read("root") });
  return (
    <Form title="First setup" verb="Set up and sign in" submit={submit}>
      <p class="dim">This node has no passwords. Choose one for root, and make the user you will work as.</p>
      <Field name="root" label="Password of root" secret autocomplete="new-password" />
      <Field name="user" label="Your user" autocomplete="username" />
      <Field name="password" label="Your password" secret autocomplete="new-password" />
    </Form>
  );
}

interface FormProps {
  readonly title: string;
  readonly verb: string;
  readonly submit: (read: (name: string) => string) => Promise<void>;
  readonly children: ComponentChildren;
}

function Form({ title, verb, submit, children }: FormProps): JSX.Element {
  const [busy, setBusy] = useState(false);
  const [fault, setFault] = useState<Fault | null>(null);
  const onSubmit = (event: TargetedEvent<HTMLFormElement>): void => {
    event.preventDefault();
    const fields = new FormData(event.currentTarget);
    const read = (name: string): string => {
      const value = fields.get(name);
      return typeof value === "string" ? value : "";
    };
    setBusy(true);
    submit(read)
      .catch((error: unknown) => {
        if (!(error instanceof Refused)) throw error;
        setFault(error.fault);
      })
      .finally(() => setBusy(false));
  };
  return (
    <form onSubmit={onSubmit} aria-label={title}>
      <h2>{title}</h2>
      {children}
      {fault !== null && (
        <p class="door-fault" role="alert">
          <Icon name="warn" /> {fault.message}
        </p>
      )}
      <button type="submit" class="button is-primary is-large" disabled={busy}>
        {verb}
      </button>
    </form>
  );
}

interface FieldProps {
  readonly name: string;
  readonly label: string;
  readonly secret?: boolean;
  readonly autocomplete: string;
}

function Field({ name, label, secret = false, autocomplete }: FieldProps): JSX.Element {
  const plain = { name, autocomplete, required: true } as const;
  return (
    <label class="door-field">
      <span>{label}</span>
      {secret ? (
        <input {...plain} type="password" />
      ) : (
        <input {...plain} type="text" autocapitalize="none" spellcheck={false} />
      )}
    </label>
  );
}

const SAMPLE = [
  ["383586563272998915", "anna", "the kettle is on"],
  ["383586563272998916", "omar", "two minutes"],
  ["383586563272998917", "agent", "tea.brewed {\"for_s\": 180}"],
] as const;

/** What the page is about, drawn: no rows of anybody. */
function Sample(): JSX.Element {
  return (
    <div class="sample" aria-hidden="true">
      <p>
        <b>SELECT</b> id, who, body <b>FROM</b> chat.messages <i>live</i>
      </p>
      {SAMPLE.map(([id, who, body]) => (
        <div key={id}>
          <span>…{id.slice(-6)}</span>
          <span>{who}</span>
          <span>{body}</span>
        </div>
      ))}
    </div>
  );
}
