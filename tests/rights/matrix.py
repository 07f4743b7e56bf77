"""Who may do what on which channel, written by hand from the design, and no code of ours.

The rights function is not imported here and nothing below was generated from
it, so that this table can disagree with it. Change it only together with the
table "Channels and rights" of the design.

A cell has two signs: what a publish gets, and what a read gets.
    w       it is stored
    r       all of it may be read
    3       it may be read from offset 3 on
    -       403 forbidden
    ?       401 unauthenticated
    !       400 invalid_channel
    x       refused, with whichever of the three: two things are wrong at once

Who asks. `owner` is olga, with a token of every scope, one that only reads and
one that only writes; `second` is greta, to whom olga grants (GIVEN says what) and
who shares a room and a dm with her; blake is blocked by olga; walt has nothing to
do with her. Without a token: from this machine; forwarded by a proxy; on a hub
with channels.anonymous_read = false; forwarded, on a hub where it is true.
`dead` stands for three tokens: a deleted account's, a revoked one, an expired one.
"""

from __future__ import annotations

from dataclasses import dataclass

OWNER, SECOND, BLOCKED, STRANGER = "olga", "greta", "blake", "walt"
WARDEN, MASTER, DELETED = "wanda", "max", "dora"
ACCOUNTS = (OWNER, SECOND, BLOCKED, STRANGER, WARDEN, MASTER, DELETED)

COLUMNS = tuple(
    "owner owner-ro owner-wo second blocked stranger warden master "
    "anon-local anon-remote anon-off anon-on dead".split()
)

GIVEN = """
olga    block   blake
olga    grant   greta   agent.olga.shared           read
olga    grant   greta   agent.olga.project.*        read
olga    grant   greta   agent.olga.deep.>           read
olga    grant   greta   agent.olga.later            read            3
olga    grant   greta   agent.olga.former           read
olga    revoke  greta   agent.olga.former
olga    grant   greta   agent.olga.branch.>         read
olga    revoke  greta   agent.olga.branch.>
olga    unlock  -       agent.olga.open
olga    unlock  -       agent.olga.shut
olga    lock    -       agent.olga.shut
olga    grant   greta   agent.olga.shut-shared      read
olga    unlock  -       agent.olga.shut-shared
olga    lock    -       agent.olga.shut-shared
max     grant   olga    room.team                   publish,read
max     grant   greta   room.team                   publish,read
max     grant   olga    room.late                   publish,read
max     grant   greta   room.late                   publish,read    3
max     grant   greta   room.hears                  read
max     grant   greta   room.speaks                 publish
max     grant   greta   room.left                   publish,read
max     revoke  greta   room.left
max     grant   greta   room.muted                  publish,read
max     revoke  greta   room.muted                  publish
max     grant   greta   club:a                      publish,read
max     grant   greta   club.hears                  read
max     grant   greta   void:granted                publish,read
max     grant   greta   fans:a                      read
max     grant   greta   fans:b                      publish
max     grant   greta   $desk:granted               publish,read
max     grant   greta   undeclared:granted          publish,read
"""
"""What was given and taken before anyone asks: who, does what, to whom, on which channel."""

NAMESPACES = {
    # name: (publish, read)
    "desk": ("accounts", "accounts"),
    "club": ("granted", "granted"),
    "void": ("nobody", "nobody"),
    "board": ("nobody", "anyone"),
    "wall": ("accounts", "anyone"),
    "box": ("accounts", "nobody"),
    "talk": ("subscribers", "accounts"),
    "fans": ("subscribers", "granted"),
    "open": ("anyone", "anyone"),
}
"""Free names exist only below these."""

TABLE = r"""
                          owner     owner  owner second block stran warden master  without a token            dead
                          full      ro     wo           -ed   -ger                 local remote off  on
public.*: any account; without a token to read, where that is on
public.news               wr        -r     w-    wr     wr    wr    wr     wr      ?r    ??     ??   ?r       ??
public.a.b.c              wr        -r     w-    wr     wr    wr    wr     wr      ?r    ??     ??   ?r       ??
public.inbox              wr        -r     w-    wr     wr    wr    wr     wr      ?r    ??     ??   ?r       ??

the lobby and its aliases
public.lobby              wr        -r     w-    wr     wr    wr    wr     wr      ?r    ??     ??   ?r       ??
public.townsquare         wr        -r     w-    wr     wr    wr    wr     wr      ?r    ??     ??   ?r       ??
global                    wr        -r     w-    wr     wr    wr    wr     wr      ?r    ??     ??   ?r       ??

agent.<id>.public.<topic>: the owner publishes, reading is as on public.*
agent.olga.public.feed    wr        -r     w-    -r     -r    -r    -r     -r      ?r    ??     ??   ?r       ??
agent.olga.public.a.b     wr        -r     w-    -r     -r    -r    -r     -r      ?r    ??     ??   ?r       ??
agent.nobody.public.feed  -r        -r     --    -r     -r    -r    -r     -r      ?r    ??     ??   ?r       ??

inboxes: any account that the owner did not block writes, the owner reads
agent.olga.inbox          wr        -r     w-    w-     --    w-    wr     w-      ??    ??     ??   ??       ??
agent.greta.inbox         w-        --     w-    wr     w-    w-    wr     w-      ??    ??     ??   ??       ??
agent.max.inbox           w-        --     w-    w-     w-    w-    wr     wr      ??    ??     ??   ??       ??
agent.nobody.inbox        --        --     --    --     --    --    -r     --      ??    ??     ??   ??       ??
agent.dora.inbox          --        --     --    --     --    --    -r     --      ??    ??     ??   ??       ??

agent.<id>.<topic>: the owner; to read also who was granted it, or anyone once it is unlocked
agent.olga.diary          wr        -r     w-    --     --    --    -r     --      ??    ??     ??   ??       ??
agent.olga.shared         wr        -r     w-    -r     --    --    -r     --      ??    ??     ??   ??       ??
agent.olga.project.a      wr        -r     w-    -r     --    --    -r     --      ??    ??     ??   ??       ??
agent.olga.project.a.b    wr        -r     w-    --     --    --    -r     --      ??    ??     ??   ??       ??
agent.olga.project        wr        -r     w-    --     --    --    -r     --      ??    ??     ??   ??       ??
agent.olga.deep.a.b       wr        -r     w-    -r     --    --    -r     --      ??    ??     ??   ??       ??
agent.olga.deep           wr        -r     w-    --     --    --    -r     --      ??    ??     ??   ??       ??
agent.olga.later          wr        -r     w-    -3     --    --    -r     --      ??    ??     ??   ??       ??
agent.olga.former         wr        -r     w-    --     --    --    -r     --      ??    ??     ??   ??       ??
agent.olga.branch.a       wr        -r     w-    --     --    --    -r     --      ??    ??     ??   ??       ??
agent.olga.open           wr        -r     w-    -r     -r    -r    -r     -r      ??    ??     ??   ??       ??
agent.olga.open.below     wr        -r     w-    --     --    --    -r     --      ??    ??     ??   ??       ??
agent.olga.shut           wr        -r     w-    --     --    --    -r     --      ??    ??     ??   ??       ??
agent.olga.shut-shared    wr        -r     w-    -r     --    --    -r     --      ??    ??     ??   ??       ??
agent.olga.dead-letter    wr        -r     w-    --     --    --    -r     --      ??    ??     ??   ??       ??
agent.olga.inbox.old      wr        -r     w-    --     --    --    -r     --      ??    ??     ??   ??       ??
agent.olga.publicity      wr        -r     w-    --     --    --    -r     --      ??    ??     ??   ??       ??
agent.olga.my.public.x    wr        -r     w-    --     --    --    -r     --      ??    ??     ??   ??       ??
agent.greta.diary         --        --     --    wr     --    --    -r     --      ??    ??     ??   ??       ??
agent.max.diary           --        --     --    --     --    --    -r     wr      ??    ??     ??   ??       ??
agent.wanda.diary         --        --     --    --     --    --    wr     --      ??    ??     ??   ??       ??
agent.nobody.diary        --        --     --    --     --    --    -r     --      ??    ??     ??   ??       ??

rooms: members, from the offset at which they joined
room.team                 wr        -r     w-    wr     --    --    -r     --      ??    ??     ??   ??       ??
room.late                 wr        -r     w-    w3     --    --    -r     --      ??    ??     ??   ??       ??
room.hears                --        --     --    -r     --    --    -r     --      ??    ??     ??   ??       ??
room.speaks               --        --     --    w-     --    --    -r     --      ??    ??     ??   ??       ??
room.left                 --        --     --    --     --    --    -r     --      ??    ??     ??   ??       ??
room.muted                --        --     --    -r     --    --    -r     --      ??    ??     ??   ??       ??
room.empty                --        --     --    --     --    --    -r     --      ??    ??     ??   ??       ??

direct messages: the two, and the warden, who persists; nobody writes to who is not there,
since, as with an inbox, nobody would read it (and an id is never given a second time)
dm.greta.olga             wr        -r     w-    wr     --    --    -r     --      ??    ??     ??   ??       ??
dm.blake.greta            --        --     --    wr     wr    --    -r     --      ??    ??     ??   ??       ??
dm.max.olga               wr        -r     w-    --     --    --    -r     wr      ??    ??     ??   ??       ??
dm.blake.walt             --        --     --    --     wr    wr    -r     --      ??    ??     ??   ??       ??
dm.nobody.olga            -r        -r     --    --     --    --    -r     --      ??    ??     ??   ??       ??
dm.dora.olga              -r        -r     --    --     --    --    -r     --      ??    ??     ??   ??       ??
dm.dora.max               --        --     --    --     --    --    -r     -r      ??    ??     ??   ??       ??

the hub's own: timers and presence for accounts, the rest for warden and master
system.timer.minute       -r        -r     --    -r     -r    -r    -r     -r      ??    ??     ??   ??       ??
system.timer.week.monday  -r        -r     --    -r     -r    -r    -r     -r      ??    ??     ??   ??       ??
system.presence           -r        -r     --    -r     -r    -r    -r     -r      ??    ??     ??   ??       ??
system.accounts           --        --     --    --     --    --    -r     -r      ??    ??     ??   ??       ??
system.tokens             --        --     --    --     --    --    -r     -r      ??    ??     ??   ??       ??
system.grants             --        --     --    --     --    --    -r     -r      ??    ??     ??   ??       ??
system.audit.log          --        --     --    --     --    --    -r     -r      ??    ??     ??   ??       ??
system.timer              --        --     --    --     --    --    -r     -r      ??    ??     ??   ??       ??
system.timers.x           --        --     --    --     --    --    -r     -r      ??    ??     ??   ??       ??
system.presence.x         --        --     --    --     --    --    -r     -r      ??    ??     ??   ??       ??

features publish on their own roots, accounts with read scope read
memory.notes              -r        -r     --    -r     -r    -r    -r     -r      ??    ??     ??   ??       ??
graph.edges               -r        -r     --    -r     -r    -r    -r     -r      ??    ??     ??   ??       ??
file.changes              -r        -r     --    -r     -r    -r    -r     -r      ??    ??     ??   ??       ??
flow.runs                 -r        -r     --    -r     -r    -r    -r     -r      ??    ??     ??   ??       ??
hook.results              -r        -r     --    -r     -r    -r    -r     -r      ??    ??     ??   ??       ??
external.github           -r        -r     --    -r     -r    -r    -r     -r      ??    ??     ??   ??       ??

free names: as their declared namespace says; undeclared ones exist for nobody
desk:a                    wr        -r     w-    wr     wr    wr    wr     wr      ??    ??     ??   ??       ??
desk.a                    wr        -r     w-    wr     wr    wr    wr     wr      ??    ??     ??   ??       ??
desk:public.news          wr        -r     w-    wr     wr    wr    wr     wr      ??    ??     ??   ??       ??
desk:!"\x5c{}             wr        -r     w-    wr     wr    wr    wr     wr      ??    ??     ??   ??       ??
club:a                    --        --     --    wr     --    --    -r     --      ??    ??     ??   ??       ??
club.hears                --        --     --    -r     --    --    -r     --      ??    ??     ??   ??       ??
club:b                    --        --     --    --     --    --    -r     --      ??    ??     ??   ??       ??
void:a                    --        --     --    --     --    --    -r     --      ??    ??     ??   ??       ??
void:granted              --        --     --    --     --    --    -r     --      ??    ??     ??   ??       ??
board:a                   -r        -r     --    -r     -r    -r    -r     -r      ?r    ??     ??   ?r       ??
wall:a                    wr        -r     w-    wr     wr    wr    wr     wr      ?r    ??     ??   ?r       ??
box:a                     w-        --     w-    w-     w-    w-    wr     w-      ??    ??     ??   ??       ??
talk:a                    wr        -r     w-    wr     wr    wr    wr     wr      ??    ??     ??   ??       ??
fans:a                    --        --     --    wr     --    --    -r     --      ??    ??     ??   ??       ??
fans:b                    --        --     --    --     --    --    -r     --      ??    ??     ??   ??       ??
open:a                    wr        -r     w-    wr     wr    wr    wr     wr      ?r    ??     ??   ?r       ??
desk:dialog#greta         w-        --     w-    wr     w-    w-    wr     w-      ??    ??     ??   ??       ??
talk:dialog#greta         --        --     --    wr     --    --    -r     --      ??    ??     ??   ??       ??
open:dialog#greta         w-        --     w-    wr     w-    w-    wr     w-      ??    ??     ??   ??       ??
talk:dialog#              --        --     --    --     --    --    -r     --      ??    ??     ??   ??       ??
talk:#olga.greta          --        --     --    --     --    --    -r     --      ??    ??     ??   ??       ??
$talk:secret              --        --     --    --     --    --    -r     --      ??    ??     ??   ??       ??
$desk:granted             w-        --     w-    w-     w-    w-    wr     w-      ??    ??     ??   ??       ??
$open:secret              w-        --     w-    w-     w-    w-    wr     w-      ??    ??     ??   ??       ??
$public.news              --        --     --    --     --    --    --     --      ??    ??     ??   ??       ??
#olga                     --        --     --    --     --    --    --     --      ??    ??     ??   ??       ??
undeclared:a              --        --     --    --     --    --    --     --      ??    ??     ??   ??       ??
undeclared:granted        --        --     --    --     --    --    --     --      ??    ??     ??   ??       ??
bare                      --        --     --    --     --    --    --     --      ??    ??     ??   ??       ??
DESK:a                    --        --     --    --     --    --    --     --      ??    ??     ??   ??       ??
PUBLIC.news               --        --     --    --     --    --    --     --      ??    ??     ??   ??       ??
public:news               --        --     --    --     --    --    --     --      ??    ??     ??   ??       ??
agent:olga:diary          --        --     --    --     --    --    --     --      ??    ??     ??   ??       ??
.public.news              --        --     --    --     --    --    --     --      ??    ??     ??   ??       ??

no names
public                    !!        x!     !x    !!     !!    !!    !!     !!      x!    xx     xx   x!       xx
public.                   !!        x!     !x    !!     !!    !!    !!     !!      x!    xx     xx   x!       xx
public..news              !!        x!     !x    !!     !!    !!    !!     !!      x!    xx     xx   x!       xx
public.News               !!        x!     !x    !!     !!    !!    !!     !!      x!    xx     xx   x!       xx
public.n\u00e9ws          !!        x!     !x    !!     !!    !!    !!     !!      x!    xx     xx   x!       xx
public.a\x20b             !!        x!     !x    !!     !!    !!    !!     !!      x!    xx     xx   x!       xx
public.a/b                !!        x!     !x    !!     !!    !!    !!     !!      x!    xx     xx   x!       xx
public.a\n                !!        x!     !x    !!     !!    !!    !!     !!      x!    xx     xx   x!       xx
public.a\x00              !!        x!     !x    !!     !!    !!    !!     !!      x!    xx     xx   x!       xx
agent.olga                !!        x!     !x    !!     !!    !!    !!     !!      x!    xx     xx   x!       xx
agent.olga.               !!        x!     !x    !!     !!    !!    !!     !!      x!    xx     xx   x!       xx
agent..diary              !!        x!     !x    !!     !!    !!    !!     !!      x!    xx     xx   x!       xx
agent.OLGA.diary          !!        x!     !x    !!     !!    !!    !!     !!      x!    xx     xx   x!       xx
agent.olga.public         !!        x!     !x    !!     !!    !!    !!     !!      x!    xx     xx   x!       xx
room                      !!        x!     !x    !!     !!    !!    !!     !!      x!    xx     xx   x!       xx
room.team.x               !!        x!     !x    !!     !!    !!    !!     !!      x!    xx     xx   x!       xx
dm.olga                   !!        x!     !x    !!     !!    !!    !!     !!      x!    xx     xx   x!       xx
dm.olga.greta             !!        x!     !x    !!     !!    !!    !!     !!      x!    xx     xx   x!       xx
dm.olga.olga              !!        x!     !x    !!     !!    !!    !!     !!      x!    xx     xx   x!       xx
dm.blake.greta.olga       !!        x!     !x    !!     !!    !!    !!     !!      x!    xx     xx   x!       xx
system                    !!        x!     !x    !!     !!    !!    !!     !!      x!    xx     xx   x!       xx
memory                    !!        x!     !x    !!     !!    !!    !!     !!      x!    xx     xx   x!       xx
desk:a\x20b               !!        x!     !x    !!     !!    !!    !!     !!      x!    xx     xx   x!       xx
desk:\u00e9               !!        x!     !x    !!     !!    !!    !!     !!      x!    xx     xx   x!       xx
desk:\x7f                 !!        x!     !x    !!     !!    !!    !!     !!      x!    xx     xx   x!       xx
"""  # noqa: E501  a row is one line


@dataclass(frozen=True)
class Row:
    """A channel with its cells, by column."""

    channel: str
    cells: dict[str, str]

    @property
    def is_name(self) -> bool:
        """Whether it is a channel's name at all."""
        return self.cells["owner"] != "!!"

    def publish(self, column: str) -> str:
        return self.cells[column][0]

    def read(self, column: str) -> str:
        return self.cells[column][1]


def _rows() -> tuple[Row, ...]:
    rows = []
    for line in TABLE.splitlines():
        channel, *cells = line.split() or [""]
        if len(cells) == len(COLUMNS) and all(len(cell) == 2 for cell in cells):
            name = channel.encode("ascii").decode("unicode_escape")
            rows.append(Row(name, dict(zip(COLUMNS, cells, strict=True))))
    return tuple(rows)


ROWS = _rows()
NAMES = tuple(row for row in ROWS if row.is_name)
"""The rows that are names of channels."""
