"""The table of all statements: how each is written, what it does, an example.

`docs/reference/statements.md` is made from it. Keeps: every class of the Statement union has an
entry, every spelling of every form is parsed into that class, and so is every example (tested).
"""

from __future__ import annotations

from kalamdb.sql import statement as s
from kalamdb.sql.statement_entry import Entry, Theme

TABLE = (
    Entry(
        s.Select,
        Theme.DATA,
        "SELECT",
        (
            "SELECT list [FROM table [AS alias]] [WHERE condition] [GROUP BY columns]"
            " [HAVING condition] [ORDER BY column [ASC | DESC] [NULLS { FIRST | LAST }]]"
            " [LIMIT number] [OFFSET number]",
            "SELECT DISTINCT list FROM table { JOIN | LEFT JOIN | RIGHT JOIN | FULL JOIN }"
            " table AS alias ON condition",
            "query { UNION | UNION ALL | INTERSECT | EXCEPT } query",
            "WITH alias AS ( query ) SELECT list FROM alias",
            "VALUES row, …",
        ),
        "All its rows, or an error: nothing is cut. `all_users.namespace.table` reads the rows of"
        " all users, each with `_user_id` (role dba).",
        (
            "SELECT item, sum(pieces) AS pieces FROM shop.orders WHERE price > $1 GROUP BY item"
            " ORDER BY pieces DESC LIMIT 10",
            "SELECT _user_id, count(*) AS orders FROM all_users.shop.orders GROUP BY _user_id",
        ),
    ),
    Entry(
        s.Insert,
        Theme.DATA,
        "INSERT",
        (
            "INSERT INTO table [AS alias] [( columns )] { VALUES row, … | query | DEFAULT VALUES }"
            " [ON CONFLICT [( column ) | ON CONSTRAINT name] DO NOTHING]"
            " [RETURNING { * | list }]",
            "INSERT INTO table VALUES row ON CONFLICT { ( column ) | ON CONSTRAINT name }"
            " DO UPDATE SET assignment, … [WHERE condition]",
        ),
        "Done whole or not at all. `EXCLUDED.column` is the row that could not go in.",
        (
            "INSERT INTO shop.orders (item, pieces) VALUES ($1, $2), ('cup', 1) RETURNING id",
            "INSERT INTO shop.items VALUES ('tea', 'Tea') ON CONFLICT (item)"
            " DO UPDATE SET title = EXCLUDED.title",
        ),
    ),
    Entry(
        s.Update,
        Theme.DATA,
        "UPDATE",
        ("UPDATE table [AS alias] SET assignment, … WHERE condition [RETURNING { * | list }]",),
        "WHERE is required; `WHERE true` is every row. The primary key cannot be changed.",
        ("UPDATE shop.orders SET pieces = pieces + 1 WHERE id = 1 RETURNING pieces",),
    ),
    Entry(
        s.Delete,
        Theme.DATA,
        "DELETE",
        ("DELETE FROM table [AS alias] WHERE condition [RETURNING { * | list }]",),
        "WHERE is required. RETURNING shows the rows as they were.",
        ("DELETE FROM shop.orders WHERE price IS NULL",),
    ),
    Entry(
        s.ExecuteAs,
        Theme.DATA,
        "EXECUTE AS",
        ("EXECUTE AS [USER] user ( statement )",),
        "One SELECT, INSERT, UPDATE or DELETE as that user with role user, on USER and STREAM"
        " tables. The user need not exist. Role user acts as itself, the others as users up to"
        " their own role. Every use is in the audit log.",
        ("EXECUTE AS 'alice' (SELECT count(*) FROM shop.orders)",),
    ),
    Entry(
        s.Explain,
        Theme.DATA,
        "EXPLAIN",
        ("EXPLAIN statement",),
        "The path a SELECT, INSERT, UPDATE or DELETE takes: by key, by index, by scan, by the query"
        " engine. It is not run.",
        ("EXPLAIN SELECT item FROM shop.orders WHERE id = 1",),
    ),
    Entry(
        s.SubscribeTo,
        Theme.DATA,
        "SUBSCRIBE TO",
        (
            "SUBSCRIBE TO table [WHERE condition] [OPTIONS ( subscription, … )]",
            "SUBSCRIBE TO query [OPTIONS ( subscription )]",
        ),
        "Opens nothing: it answers with the message that opens the live query over the WebSocket.",
        ("SUBSCRIBE TO shop.orders WHERE item = 'tea' OPTIONS (last_rows = 20)",),
    ),
    Entry(
        s.Begin,
        Theme.TRANSACTION,
        "BEGIN",
        ("BEGIN [TRANSACTION | WORK] [mode]", "START TRANSACTION [mode]"),
        "Snapshot isolation from here to COMMIT, for the rows of one user or of one SHARED table."
        " A mode is `ISOLATION LEVEL REPEATABLE READ` (all levels below SERIALIZABLE are given"
        " this one), `READ ONLY` or `READ WRITE`; several have commas between them.",
        ("BEGIN ISOLATION LEVEL REPEATABLE READ, READ WRITE", "START TRANSACTION READ ONLY"),
    ),
    Entry(
        s.SetTransaction,
        Theme.TRANSACTION,
        "SET TRANSACTION",
        ("SET TRANSACTION mode",),
        "The mode of the running transaction, before its first statement.",
        ("SET TRANSACTION READ ONLY",),
    ),
    Entry(
        s.Commit,
        Theme.TRANSACTION,
        "COMMIT",
        ("{ COMMIT | END } [TRANSACTION | WORK]",),
        "All of it at once, or CONFLICT when another wrote one of the rows meanwhile.",
        ("COMMIT",),
    ),
    Entry(
        s.Rollback,
        Theme.TRANSACTION,
        "ROLLBACK",
        ("{ ROLLBACK | ABORT } [TRANSACTION | WORK]",),
        "Nothing of it was done.",
        ("ROLLBACK",),
    ),
    Entry(
        s.Savepoint,
        Theme.TRANSACTION,
        "SAVEPOINT",
        ("SAVEPOINT point",),
        "A place to come back to.",
        ("SAVEPOINT before_payment",),
    ),
    Entry(
        s.RollbackTo,
        Theme.TRANSACTION,
        "ROLLBACK TO",
        ("ROLLBACK [TRANSACTION | WORK] TO [SAVEPOINT] point",),
        "Takes back what was written after the savepoint, which stays.",
        ("ROLLBACK TO SAVEPOINT before_payment",),
    ),
    Entry(
        s.ReleaseSavepoint,
        Theme.TRANSACTION,
        "RELEASE",
        ("RELEASE [SAVEPOINT] point",),
        "Forgets a savepoint and keeps what was written.",
        ("RELEASE SAVEPOINT before_payment",),
    ),
    Entry(
        s.CreateTable,
        Theme.TABLE,
        "CREATE TABLE",
        (
            "CREATE [USER | SHARED | STREAM] TABLE [IF NOT EXISTS] table"
            " ( { column type [NOT NULL | NULL] [DEFAULT value] [PRIMARY KEY] [UNIQUE]"
            " [CHECK ( condition )] } , … [, [CONSTRAINT name]"
            " { PRIMARY KEY ( columns ) | UNIQUE ( columns ) | CHECK ( condition ) }] )"
            " [WITH ( option, … )]",
        ),
        "Without a kind it is SHARED. Without a PRIMARY KEY its rows have a hidden one.",
        (
            "CREATE USER TABLE shop.notes (id BIGINT PRIMARY KEY DEFAULT SNOWFLAKE_ID(),"
            " body TEXT NOT NULL, at TIMESTAMP DEFAULT NOW())",
            "CREATE STREAM TABLE shop.typing (who TEXT) WITH (TTL_SECONDS = 30)",
        ),
    ),
    Entry(
        s.AlterTable,
        Theme.TABLE,
        "ALTER TABLE",
        (
            "ALTER TABLE [IF EXISTS] table change, …",
            "ALTER TABLE table ADD [COLUMN] [IF NOT EXISTS] column type [NOT NULL | NULL]"
            " [DEFAULT value] [UNIQUE] [CHECK ( condition )]",
            "ALTER TABLE table DROP [COLUMN] [IF EXISTS] column [CASCADE | RESTRICT]",
            "ALTER TABLE table ALTER [COLUMN] column { SET NOT NULL | DROP NOT NULL"
            " | SET DEFAULT value | DROP DEFAULT | [SET DATA] TYPE type }",
            "ALTER TABLE table MODIFY [COLUMN] column type [NOT NULL | NULL]",
            "ALTER TABLE table RENAME { TO label | [COLUMN] column TO label"
            " | CONSTRAINT name TO label }",
            "ALTER TABLE table ADD [CONSTRAINT name] { UNIQUE ( columns ) | CHECK ( condition ) }",
            "ALTER TABLE table DROP CONSTRAINT [IF EXISTS] name",
            "ALTER TABLE table { SET [TBLPROPERTIES] ( option, … ) | RESET ( key, … )"
            " | SET ACCESS LEVEL level }",
        ),
        "Online: others go on reading and writing. All changes of a statement, or none. Types"
        " change where no value can be lost; NOT NULL, UNIQUE and CHECK are checked against every"
        " row first.",
        (
            "ALTER TABLE shop.orders ADD COLUMN note TEXT DEFAULT '', DROP COLUMN ticket CASCADE",
            "ALTER TABLE shop.orders ALTER COLUMN pieces TYPE BIGINT",
        ),
    ),
    Entry(
        s.DropTable,
        Theme.TABLE,
        "DROP TABLE",
        ("DROP [USER | SHARED | STREAM] TABLE [IF EXISTS] table [CASCADE | RESTRICT]",),
        "For all users, at once. CASCADE: with the views that read it.",
        ("DROP TABLE IF EXISTS shop.orders",),
    ),
    Entry(
        s.CreateIndex,
        Theme.INDEX,
        "CREATE INDEX",
        (
            "CREATE [UNIQUE] INDEX [IF NOT EXISTS] index ON table ( columns )",
            "CREATE INDEX ON table ( { column [ASC | DESC] }, … )",
            "ALTER TABLE table CREATE INDEX [index] ( columns )",
        ),
        "Built while others write; used from when it is ready. `WHERE` on its first columns, a"
        " range on the next, and ORDER BY in its order are then read from it alone.",
        (
            "CREATE INDEX by_item ON shop.orders (item, placed)",
            "CREATE UNIQUE INDEX IF NOT EXISTS one_ticket ON shop.orders (ticket)",
        ),
    ),
    Entry(
        s.DropIndex,
        Theme.INDEX,
        "DROP INDEX",
        (
            "DROP INDEX [IF EXISTS] index [ON table]",
            "ALTER TABLE table DROP INDEX index",
        ),
        "Reads stop using it at once; its entries leave in the background.",
        ("DROP INDEX IF EXISTS shop.by_item",),
    ),
    Entry(
        s.CreateView,
        Theme.VIEW,
        "CREATE VIEW",
        ("CREATE [OR REPLACE] VIEW view [( columns )] AS query",),
        "A SELECT under a name. Whoever reads it sees what they would see of its tables; `*` is"
        " fixed when it is made.",
        ("CREATE VIEW shop.dear_orders AS SELECT item, price FROM shop.orders WHERE price > 100",),
    ),
    Entry(
        s.DropView,
        Theme.VIEW,
        "DROP VIEW",
        ("DROP VIEW [IF EXISTS] view [CASCADE | RESTRICT]",),
        "CASCADE: with the views that read it.",
        ("DROP VIEW IF EXISTS shop.dear_orders",),
    ),
    Entry(
        s.AlterNamespace,
        Theme.NAMESPACE,
        "ALTER NAMESPACE",
        ("ALTER NAMESPACE namespace SET { OPTIONS ( property, … ) | DESCRIPTION text }",),
        "Merged into the options that are there; NULL takes one out.",
        ("ALTER NAMESPACE shop SET DESCRIPTION 'orders and items'",),
    ),
    Entry(
        s.CreateNamespace,
        Theme.NAMESPACE,
        "CREATE NAMESPACE",
        ("CREATE NAMESPACE [IF NOT EXISTS] namespace",),
        "A place for tables. `default` is always there.",
        ("CREATE NAMESPACE IF NOT EXISTS shop",),
    ),
    Entry(
        s.DropNamespace,
        Theme.NAMESPACE,
        "DROP NAMESPACE",
        ("DROP NAMESPACE [IF EXISTS] namespace [CASCADE | RESTRICT]",),
        "CASCADE: with all that is in it.",
        ("DROP NAMESPACE shop CASCADE",),
    ),
    Entry(
        s.CreateUser,
        Theme.USER,
        "CREATE USER",
        (
            "CREATE USER [IF NOT EXISTS] user WITH { PASSWORD password | OIDC identity"
            " | OAUTH identity | INTERNAL } ROLE role [EMAIL email] [REUSE DATA]",
        ),
        "Roles: user, service, dba, system. INTERNAL users cannot sign in; they are tenants for"
        " EXECUTE AS. REUSE DATA takes over the rows of a dropped user of that name.",
        ("CREATE USER 'Zoë' WITH PASSWORD 'a long one 55' ROLE user EMAIL 'zoe@example.org'",),
    ),
    Entry(
        s.AlterUser,
        Theme.USER,
        "ALTER USER",
        ("ALTER USER user SET { PASSWORD password | ROLE role | EMAIL email }",),
        "Everybody may set their own password. A new password or role ends the user's tokens.",
        ("ALTER USER 'Zoë' SET ROLE service",),
    ),
    Entry(
        s.DropUser,
        Theme.USER,
        "DROP USER",
        ("DROP USER [IF EXISTS] user",),
        "Ends the user's tokens and connections. The rows stay, out of reach, and so does the"
        " name.",
        ("DROP USER IF EXISTS 'Zoë'",),
    ),
    Entry(
        s.UseNamespace,
        Theme.SESSION,
        "USE",
        (
            "USE [NAMESPACE] namespace",
            "SET NAMESPACE namespace",
            "SET search_path { = | TO } namespace",
        ),
        "Where names without a namespace are looked for.",
        ("USE shop",),
    ),
    Entry(
        s.SetOption,
        Theme.SESSION,
        "SET",
        ("SET consistency { = | TO } { linearizable | stale }",),
        "`stale` reads need not be the newest; their `cursor` says what they are current to.",
        ("SET consistency = 'stale'",),
    ),
    Entry(
        s.ShowNamespaces,
        Theme.LOOK,
        "SHOW NAMESPACES",
        ("SHOW { NAMESPACES | SCHEMAS | DATABASES }",),
        "Those that hold what one may read: names, options and numbers of tables.",
        ("SHOW NAMESPACES",),
    ),
    Entry(
        s.ShowTables,
        Theme.LOOK,
        "SHOW TABLES",
        ("SHOW TABLES [{ IN | FROM } [NAMESPACE] namespace]",),
        "Those one may read, of the namespace that is named, else of all.",
        ("SHOW TABLES IN shop",),
    ),
    Entry(
        s.DescribeTable,
        Theme.LOOK,
        "DESCRIBE",
        (
            "{ DESCRIBE | DESC } [TABLE] table [HISTORY]",
            "SHOW { COLUMNS | FIELDS } { FROM | IN } table",
        ),
        "Its columns, for who may read it; with HISTORY those of every earlier version kept.",
        ("DESCRIBE shop.orders", "DESCRIBE TABLE shop.orders HISTORY"),
    ),
    Entry(
        s.ShowCreate,
        Theme.LOOK,
        "SHOW CREATE",
        ("SHOW CREATE { TABLE table | VIEW view }",),
        "The statement that makes it as it is now, for who may read it.",
        ("SHOW CREATE TABLE shop.orders",),
    ),
    Entry(
        s.ShowStats,
        Theme.LOOK,
        "SHOW STATS",
        ("SHOW STATS FOR TABLE table",),
        "Rows and sizes; role user is told of its own rows.",
        ("SHOW STATS FOR TABLE shop.orders",),
    ),
    Entry(
        s.ShowIndexes,
        Theme.LOOK,
        "SHOW INDEXES",
        ("SHOW { INDEXES | INDEX } [{ FROM | IN | ON } table]",),
        "With their state: an index that is being built serves no reads.",
        ("SHOW INDEXES FROM shop.orders",),
    ),
    Entry(
        s.ShowUsers,
        Theme.LOOK,
        "SHOW USERS",
        ("SHOW USERS",),
        "The rows of `system.users`.",
        ("SHOW USERS",),
    ),
    Entry(
        s.ShowSettings,
        Theme.LOOK,
        "SHOW ALL",
        ("SHOW { ALL | SETTINGS }", "SHOW section . setting"),
        "The settings in force; secrets are masked.",
        ("SHOW ALL", "SHOW limits.max_params"),
    ),
    Entry(
        s.ShowOngoing,
        Theme.ONGOING,
        "SHOW QUERIES",
        (
            "SHOW { QUERIES | LIVE QUERIES | SUBSCRIPTIONS | TRANSACTIONS | CONNECTIONS"
            " | SESSIONS }",
        ),
        "Everybody sees what is their own, dba and system see all.",
        ("SHOW QUERIES",),
    ),
    Entry(
        s.Kill,
        Theme.ONGOING,
        "KILL",
        ("KILL { QUERY | LIVE QUERY | SUBSCRIPTION | TRANSACTION | CONNECTION | SESSION } id",),
        "Ends it for real. The id is what SHOW tells. Everybody ends what is their own, dba and"
        " system all.",
        ("KILL QUERY 'q1-42'",),
    ),
    Entry(
        s.Cluster,
        Theme.CLUSTER,
        "CLUSTER",
        (
            "CLUSTER { LIST | LS | STATUS }",
            "CLUSTER JOIN node [RPC] address [API address]",
            "CLUSTER { LEAVE | REMOVE } [NODE] node",
            "CLUSTER REPLICATION voters",
            "CLUSTER TRANSFER LEADER [OF] [GROUP] group TO [NODE] node",
            "CLUSTER TRANSFER LEADER [NODE] node",
            "CLUSTER { STEPDOWN | STEP DOWN } [NODE node | GROUP group]",
            "CLUSTER REBALANCE [LEADERS]",
            "CLUSTER MOVE { [SLOT] slot | USER 'name' } TO [GROUP] group",
            "CLUSTER SNAPSHOT [[GROUP] group]",
        ),
        "The nodes of the cluster, the members of its groups, and who leads them: see"
        " [Cluster](cluster.md).",
        ("CLUSTER STATUS", "CLUSTER JOIN 4 'node4.example.org:9189'"),
    ),
)
