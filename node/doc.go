// Package node hosts workspaces: it takes ownership of a workspace, serves its
// owner verbs, runs its commands, and gives it up.
//
// # Model
//
// A node holds two connections with two credentials. The door receives what
// tenants and the operator ask and may publish replies, nothing else. The store
// reads and writes streams and buckets and talks to other nodes; it never
// answers a tenant. A defect in one cannot use the rights of the other.
//
// Opening a workspace has a fixed order, and each step is acknowledged before
// the next:
//
//  1. take: compare-and-set in the owners bucket; the new revision is the epoch.
//     A crash here leaves an owner that answers no ping; the next one takes over.
//  2. fence: publish an open record expecting the last journal record, which
//     must be of a lower epoch. From here on every older owner is refused.
//     A crash here leaves a tenure without work.
//  3. settle: execs of earlier tenures without a final frame get lost. The open
//     record names them, so a crash here loses none.
//  4. restore: the tree becomes what the journal says up to the own open record.
//     A crash here leaves the tree that was there, or none: the next opener begins
//     anew, from the journal.
//  5. mark, once in its life, the workspace's record as served: what is acknowledged
//     from now on is in the journal, and one that is empty later was lost. A crash
//     before leaves a journal that is not empty, and the next opener sets the mark.
//  6. serve: subscribe ws.v1.<tenant>.<workspace>.<epoch>.* on the door.
//
// A node that meets a higher epoch steps down: it kills the workspace's execs,
// answers nothing more, and touches the journal never again.
//
// # Files
//
// The journal is the truth about a workspace's files; the directory is a copy of it
// that commands work in. What a file verb changes is in the journal before it is on
// the disk. What a command changes is on the disk first, and captured: when its
// processes are gone the names that the kernel has told changes of (dirtree.Watch), or
// all names where it tells none or has lost some, are compared with the ledger, which is
// what the journal says, and what differs goes into the journal before the final frame tells
// the exit (durability sync; async captures as well and waits for nothing, none
// leaves it to a later capture). A capture admits a path only while no file verb is
// between journal and disk, and only if it is still as it was read. What was read
// while other processes could write it is read again when they are gone: a store
// through a mapping of memory leaves no sign. What was changed in the tick of the kernel's
// clock in which a command began, or later, is read again at its end: its time may be the
// same if the command has changed it. What a long command changes is captured
// while it runs as well, but for files that have changed a moment ago.
//
// A capture may take several records and is not atomic; a final frame names the
// last of them. What a command changed in directories that are Ephemeral is not
// captured, a restored tree begins without it, and neither are sockets, devices, and paths longer than
// mesh.MaxPathBytes.
//
// After 1,000 changes, 4 MiB of them, 2,000 records of any kind, 30 s of rest, and at
// the end of a tenure, the ledger as of one record is committed, and the records up to
// it are purged. Where that fails it is tried again, and once DefaultMaxTail of changes
// wait for it the workspace takes no more: CodeQuota where the mesh has no room for a
// commit, else CodeBusy. It can be read, and goes on when a commit is made. A tree
// that a tenure has left in peace is trusted when nothing in it is described in
// another way since; every other one is restored aside from the commit and the
// records since, and put in place by a rename; content that the tree that was there has
// at the same path is taken from it where that is what its name says. A directory of
// the host is never replaced, and what commands change there is not captured.
//
// # Requests
//
// A change carries a Mesh-Id and is done once: repeats wait for the first request
// and get its answer, which is kept for DefaultAnswerAge, in the journal too: the
// next owner reads it there. An exec id has a stronger rule: its claim in the log
// makes it start at most once, ever.
//
// # Changes of files
//
// What is acknowledged is in the journal. A change takes these steps (task), and
// changes of the same path, or of one below the other, take them one after the other:
//
//  1. look at the disk: does the request fit what is there now?
//     A refusal is recorded and then sent.
//  2. make the content aside, in the stage. A crash here leaves nothing: the stage
//     is emptied when the workspace opens.
//  3. store what is too large for a record in packs. A crash here leaves packs that
//     nobody names.
//  4. store the record, which says what the paths are afterwards, and the answer.
//     Waiting changes share one (group commit). A journal that is full is CodeQuota,
//     and nothing was done. A crash after this leaves a disk that has yet to follow.
//  5. the disk follows: one rename. When it cannot, because a command removed the
//     directory or the disk is full, the true state of the paths is recorded, or the
//     workspace is given up.
//  6. answer.
//
// What commands write is not seen by these steps; before an op refers to such a
// path (a rename, a mode), what is there is recorded first.
//
// A request of a bound token has the token's workspace and scope in its subject.
// The broker vouches for them and the responder narrows the request to them, so a
// node keeps no list of tokens. What is kept between requests, such as answers,
// staged files and tar streams, belongs to the scope that it was made in.
//
// # Limits
//
// What a tenant may use stands in its record, which every node watches; an exec may
// ask for less. The sandbox holds a command to it, except for the disk: that is the
// workspace's. It is counted while commands run and before a request adds to it,
// at most each second, a large tree less often as long as the file system has not
// lost as much room as the workspace has left. Commands that write while it is over
// its limit are ended; then no file can grow, and removing works. A directory of
// the host is its owner's to bound.
//
// # Files that are gone
//
// A workspace whose directory was removed behind the node's back is closed, and
// restored when it is opened again: an empty tree would be a lie about acknowledged
// writes. One whose journal or commit cannot be read, or whose journal is empty
// although it has been served, serves no files: each verb that
// needs them is CodeInternal. It can be described, verified, and removed, by force also
// without its owner; its history is read around the damage; and it can be recovered, to
// the newest state that is whole or to a commit: see recoverWorkspace.
//
// # Removal of a tenant
//
// The operator's command asks for turns (removeTenant), of any nodes, and each turn takes the
// steps from the first one on: what was done is found done. Whoever dies, the command or a
// node, the next command goes on. Each step is acknowledged before the next:
//
//  1. begin: the tenant's record says that it is being removed. From here on everything is
//     refused to it (CodeDenied), and it is removed, by who asks for it next. A workspace or a
//     token that is made at this moment is looked for afterwards by its maker (stillThere).
//  2. revoke: its tokens are recorded as revoked. The command then writes that beside the
//     keys of the mesh and tells the servers, which end its connections.
//  3. forget: each node ends what it does for the tenant: commands, tenures without a commit,
//     requests under way; and discards its trees (forgetTenant). A node that answers has to;
//     one that may live and does not answer is waited for; one that is dead discards when it
//     starts what a record says to be removed.
//  4. workspaces: each one is removed as by force, which no tenure is there to be overrun by.
//  5. streams: what they have besides goes: logs, content, snapshots, memory.
//  6. copy: in the mirror there is nothing left but that the tenant was removed.
//  7. tokens: what is left of their records is what the servers are told.
//  8. end: the tenant's record says that it was removed (CodeNotFound), and stays. It keeps
//     the sequence up to which nothing of a memory of that name is a later tenant's, since
//     indexes of memories may be behind.
//
// What stays besides, out of reach of anybody's token, is what refuses late owners: of each
// workspace its last journal record, the record of its owner, and the one that says that it
// was removed. A later tenant of the name has a number and a generation that were never used;
// requests that are late name the generation that they are about.
//
// # Network of commands
//
// Config.MaxNet is the most that commands may have, the workspace's record and the
// request narrow it, and more is CodeDenied: see package egress, whose proxy is the
// way to a list of hosts. A node does not start on a list that its isolation cannot
// hold. The mesh's own endpoints are out of reach whatever is excepted.
//
// # Directories of the host
//
// With Config.HostDirs the operator makes a directory of the node's host a
// workspace's tree, where it is. Its path stands in the workspace's record and
// nowhere else, and is checked again at each opening: it leads through no link,
// neither holds nor lies in the node's data, and has an owner who is not root. That
// owner is the user of the workspace's files and commands: file verbs have his
// rights and not the node's, so what others put there stays theirs. No two
// workspaces have a part of it, and removing the workspace does not touch it.
package node
