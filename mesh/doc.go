// Package mesh holds the words of wsmesh and its wire: ids, paths, subjects,
// headers, messages, frames, error codes, stream settings, and the one function
// that answers requests. This page is the wire specification; everything else
// reads it here.
//
// # Who talks to whom
//
//	ws.v1.<tenant>.<workspace>.<epoch>.<verb>   client → the owner of the workspace
//	api.v1.<tenant>.<service>.<verb>[.<node>]   client → any node (queue group "api"), or that node
//	admin.v1.<verb>                             operator → any node (queue group "admin"): tenants, their limits, tokens, moves, status,
//	                                            a workspace in a directory of the node's host
//	node.v1.<node>.<verb>                       router → node: open ping settle move ahead reread remove forget
//	out.v1.<tenant>.<workspace>.<exec>          frames of one exec, republished once they are stored
//	ev.v1.<tenant>.<workspace>                  headers of journal records, republished
//	int.v1.journal.<shard>.<tenant>.<workspace> owner → stream JOURNAL_<shard>
//	int.v1.out.<shard>.<tenant>.<workspace>.<exec>  owner → stream EXECLOG_<shard>
//	int.v1.mem.<shard>.<tenant>.<namespace>.<key>   any node → stream MEM_<shard>
//	int.v1.pack.<shard>.<tenant>.<pack>.<part>  owner → stream PACKS_<shard>
//	_INBOX.<principal>.<id>.>                   replies
//
// A tenant's token may publish ws.v1.<tenant>.> and api.v1.<tenant>.>, and
// subscribe out.v1.<tenant>.>, ev.v1.<tenant>.> and its own inbox. The token's
// user is called <tenant>/<token id>, which is how a client knows its inbox.
// Principals are tenants, _admin and _node; no tenant can be called like the
// last two.
//
// The epoch in an owner's address fences: nobody addresses a stale owner by
// mistake, and a stale route is answered with "no responders" at once.
//
// # Bound tokens
//
// A token can be bound to one workspace, or to one path of it. It publishes on
// subjects that end with what it is bound to, and on no others, so the broker
// vouches for it and a node needs no list of tokens:
//
//	ws.v1.<tenant>.<workspace>.<epoch>.<verb>.<token>.<scope>
//	api.v1.<tenant>.<service>.<verb>.<node or _>.<token>.<workspace>.<scope>
//
// The scope is percent-encoded, its slashes and dots too; "%2E" is the whole
// workspace. The token's user is <tenant>/<token id>/<workspace>/<scope>. A token
// of a whole workspace subscribes out.v1.<tenant>.<workspace>.> and
// ev.v1.<tenant>.<workspace>; one of a path hears neither, since those subjects
// do not tell paths apart, and reads logs with log read. Requests of a bound
// token are answered below that token's own inbox only. It cannot list or create
// another workspace, nor remove its own, and has no memory.
//
// A tenant that is being removed is answered denied, by every verb and whatever its token;
// one that was removed, not_found, until another one has its name. The servers let nobody in
// with its tokens by then. The operator's tenant-rm is asked in turns and names the generation
// that it is about.
//
// # Requests and replies
//
// Arguments are JSON in the body. Where the body is content (of write, exec's
// standard input), they are JSON in the header Mesh-Args and the body is raw;
// replies likewise. At most MaxMessage bytes of content travel in one message.
// Unknown JSON fields are ignored. Paths that are not UTF-8 are {"b64":"…"}.
//
//	Mesh-Id        UUID, the same in all repeats of one request; the owner does the work once
//	Mesh-Deadline  milliseconds the caller will wait; default 30000
//	Mesh-Scope     percent-encoded path from the workspace root; the request sees
//	               nothing outside it; never wider than what the token is bound to
//	Mesh-Node      in replies: who answered
//
// The reply subject is the caller's data: a server checks the subject that a
// caller publishes on, not the one it asks to be answered on. A Responder
// therefore drops every request whose reply subject does not lie below
// _INBOX.<principal of the request's subject>., and counts it.
//
// Errors are the headers Nats-Service-Error-Code, one of Codes, and
// Nats-Service-Error, a text for people: why, and what to do next. What was asked
// for, and of which path, the caller knows in its own terms. stale, busy and unavailable say that
// nothing was done and the request may be repeated. lost says that the outcome
// is unknown.
//
// # Owner verbs
//
//	stat list read readlink   StatRequest … ; read answers with raw content
//	write                     whole file, a part of a staged one, or its commit
//	mkdir remove rename copy chmod symlink touch
//	edit                      replace pieces of a file, or apply a unified diff; all or nothing
//	search grep               a page of names or of matching lines; stateless cursors
//	upload                    unpack a staged tar stream below a path
//	download                  numbered parts of a directory's tar stream
//	exec                      claim an id and start its command
//	signal                    to a running command; CANCEL ends it: SIGTERM, a grace, SIGKILL
//	stdin                     a part of its standard input, or the end of it
//	resize                    of its terminal
//	ps                        the commands that run
//	info
//	history                   a page of what changed, the newest first
//	verify                    read all that the workspace is made of; answered in turns until it is done
//	recover                   go back to an older state, where the files cannot be restored; likewise
//	commit                    make a commit of the present
//	snapshot                  the same, and name it
//	restore                   make files what they were; answered in turns until it is done
//
// Content larger than a message moves in parts, several of them in flight: ranged
// reads that carry the revision of the first (conflict once the file is another
// one), staged writes that a commit puts in place, parts of a tar stream.
//
// # Services of api.v1
//
//	place open                the route of a workspace, opened if need be
//	workspace create list rm fork set
//	log read list             stored frames of one exec, or its end; may wait for new ones; the execs whose logs are kept
//	log changes               what changed in a workspace since a cursor; may wait
//	mem get commit list watch the tenant's memory; watch may wait
//	snapshot list find rm     the named commits of a workspace; what a name, a commit or a time means
//	snapshot diff             a page of what differs between two commits
//	snapshot at-stat at-list at-read at-readlink  files as they were at a commit
//
// # Routing and repeats
//
// A client remembers the route of a workspace. "No responders" and silence make
// it ask place again and repeat the request with the same Mesh-Id; once a try
// of a change stayed without an answer, the outcome is unknown until a repeat is
// answered. The next owner knows the answers from the journal. What is made in
// parts (upload, copy, the commit of a staged file) is settled in the same tenure
// only. An answer is kept without raw content: a late repeat of an edit gets no diff.
// A request unanswered for 100 ms is followed by info at the same owner, and again: "no
// responders" to that is the end of the try, since the owner is gone.
//
// A reading is answered from the owner's disk. One that was frozen or cut off, and does
// not know yet that it has a successor, may so tell what was true before. With
// Mesh-Consistent: 1 it first stores a record in the journal, after it was asked, and
// answers stale where it cannot: what it reads then is newer than whatever was
// acknowledged before the request. Readings at the same time share a record.
// A reading api request unanswered after 300 ms is sent again to the node that answered
// lately, because a frozen member of a queue group swallows its share. So is a
// commit of memory, which is done once (see below).
//
// # Placement
//
// A workspace is opened by the node that had it last, or by another one where that is
// gone or refuses: busy says that it is full, stops or is unfit, unsupported that it has
// not what the workspace needs (Need). The others are asked in the order of a rendezvous
// hash weighted by the room that their registry records tell, those that are full after
// the rest and those that are unfit last; a node that runs no commands opens a workspace
// only when nobody else does (Anyway). Each node checks for itself what a workspace needs.
//
// # Settings
//
// What a tenant says of a workspace is in its record, and any node changes it there, and
// has the owner read it again before it answers; a new owner reads it after it has taken
// the workspace, so that none works on with what was before. An owner that has not what
// the workspace needs now gives it up, as in a move. Only a token of the whole tenant
// changes settings.
//
// A workspace that is to be removed when it is not used is removed by its owner, which
// first stops answering for it, and nobody uses it then; one that was closed, by one of
// the nodes, which takes it from the epoch that it was closed in: who opens it meanwhile
// keeps it.
//
// # The exec log
//
// One subject per exec. The first frame is the claim, published expecting that
// the subject is empty: so an id starts at most once. A refused claimant reads
// the first frame; its own nonce makes it the runner. Output frames are numbered.
// The final frame is published after all of them are acknowledged and expects
// the last one's sequence. The first final frame ends the log. Readers order by
// number, drop repeats, and read the stored log (log read) when frames are
// missing or none came for a second: republishing is best effort around a change
// of the stream's leader. At most LogWindow frames are on their way at a time, so a
// number that is so far behind what a reader has seen without a gap will not come.
//
// Of the output of one exec a node's bound is kept (256 MiB): a quarter of it from the
// beginning and the rest from the end. What was between is deleted frame by frame, so
// its numbers are missing; the final frame counts its bytes. Claim and final frame are
// never deleted, and the command goes on. A tenant whose logs fill its room on the node
// stores no further frames (the final frame's limit is log) and begins no further exec
// (quota). Logs are kept for seven days, and an id is good for half of that: nobody
// claims it again when its log is gone.
//
// An owner that meets an unfinished log whose claim is of its own or an older
// epoch, and which it is not running, ends it with lost. The claim names the
// variables of the environment and never their values.
//
// # Standard input
//
// A command gets the content of its exec request as its whole standard input,
// unless the request leaves that open. Then parts follow, each with its place in
// the stream: what is taken is taken once, whoever sends it and however often. The
// node holds DefaultStdinBuffer of it, and each answer says how much more would be
// taken now; nothing waits for a command that does not read. The stream ends with
// the part that says so, or with the command, and with nothing else: a client that
// is gone leaves it open for others.
//
// A command with a terminal reads its standard input from there, where its end is
// typed as a person would type it, and what the terminal shows is its stdout.
//
// # The journal
//
// Every record is published expecting the sequence of the one before it, carries
// its owner's epoch, and names its predecessor by sequence and hash. An owner
// begins with an open record, which fences out all owners of lower epochs: their
// next publish is refused. The open record, and a mark after every 1000 ops, name
// the execs without an end, so that the next owner reads from there only.
//
// A change of files takes this way: its Mesh-Id is looked up (a known one has its
// answer); the paths it touches, with what is above and below, are locked against
// other changes; the disk is looked at, under the lock; the content is made aside,
// and what is larger than a record takes is stored in packs; the record is stored;
// the disk follows; the answer is sent. Changes that do not touch one another share
// a record. A record says what a path is afterwards, so it can be applied again, and
// carries the Mesh-Ids it answers with the answers. A refusal is recorded too before
// it is sent: an owner that was fenced out cannot refuse. When the disk does not
// follow, the true state of the path is recorded before the answer; an owner that
// cannot do that gives the workspace up, and so does one whose publish is not settled
// within 15 seconds: the outcome is lost.
//
// An op says for people which verb changed a file, or at the end of which commands
// the change was found. A commit keeps that of the changes since the one before it, so
// that history goes on behind the records that are purged. A scope sees of it what
// happened below its path, and no commits.
//
// Each file of an upload or of the copy of a directory is a change of its own.
//
// # Snapshots
//
// A snapshot names a commit of a workspace, in the bucket snapshots. The owner takes what
// commands have written into the journal, commits, and then makes the record, expecting
// that there is none: its Mesh-Id stands in it, so a repeat is answered by it. Where
// nothing has changed the last commit is named. What a workspace was is read by any node
// from the packs of a commit, which must be the workspace's own; the scope holds there as
// in the present. The snapshots of a removed workspace go with it. To restore one the owner
// makes a snapshot of the present, commits, compares the two trees, and makes the changes
// that differ as any other: each locks its path, is recorded, and then made. It looks
// again where others were in the way, and a repeat that another owner gets does the rest.
//
// A fork is a workspace whose record refers to a commit of another one: nothing is copied,
// and its content is read and written where that one's is. Its first open record has a
// checkpoint of that commit, and so its journal begins with it; what comes after is its
// own. Its history ends there. Until its files are on its node the owner answers stat,
// list, read and readlink from the commit, and all else waits.
//
// # The feed
//
// What changes in a workspace is on ev.v1 once it is stored: the headers of its
// records. Mesh-Paths has kind:path for each change, rename:path:to for a renaming,
// percent-encoded and separated by commas; with Mesh-More there are more than fit.
// Republishing is best effort, so a watcher tells only a record that names as its
// predecessor (Mesh-Prev) the last one that was told; otherwise, and when nothing was
// heard for a second, it reads the journal (log changes), which any node does without
// opening the workspace. A cursor is the last record that was told, how many changes
// of the next one were, and the id of the workspace's record. What a checkpoint has
// taken out of the journal is told as resync: look at the files anew.
//
// Where the tail of a journal or its last commit cannot be read, the owner serves
// without files. To recover, it makes a commit of an older state, all of which it has
// read, and appends the checkpoint of that commit: the state as of its own open
// record. So the chain goes on, an owner that is late is refused, and answers to what
// is given up are in none of what is read later. A workspace that is removed by force
// is taken as from a dead owner; the deleted record follows the last record, which
// need not be one that can be read.
//
// # Packs
//
// Content is stored in packs, which are named by the SHA-256 of their bytes. A
// pack is cut into parts of MaxMessage, each published expecting that its subject
// is empty. All parts but the last are numbered and stored in any order; when all
// of them are acknowledged, the last one is stored as the part "end", with
// Mesh-Parts and Mesh-Part-Bytes. A pack without its end does not exist, and may
// be stored again. What a part's subject holds never changes.
//
// A pack that nothing refers to is deleted when it is old enough that no writer can be
// about to refer to it: see package node, collection. No name of a pack is used twice.
//
// # Memory
//
// A memory is a namespace of a tenant: values by key, one message each, in the
// tenant's stream, which is computed from its name. Reads go to the stream's
// leader. A node keeps an index of the keys, made of the messages' headers in their
// order; a listing is answered from it once it has caught up with the leader, and
// a watch as far as it is in order.
//
// Every change is published expecting the key's message that it was decided on,
// and carries that one's sequence (Mesh-Prev) and the request's Mesh-Id. A commit
// of several keys is an atomic batch, each with its own expectation. A refused
// publish is decided anew on what is there now.
//
// A request may reach several nodes, at any time, because a client repeats what is
// not answered. It carries the newest revision that its client knew before it was
// made (after). What a node finds of a key says one of three
// things:
//
//   - it carries the request's Mesh-Id: done, and that is the answer;
//   - it, or its predecessor, is not newer than after: the request was certainly not
//     done up to now. It is done, or refused;
//   - otherwise other messages hid what came between: unsure, nothing is done. A
//     client without an unanswered try asks again with the newer after that it is
//     told; any other reports lost.
//
// A deletion is a message without a body that lives TombstoneTTL, and so is the
// marker that the server leaves where a value's life ended. A cursor of a watch
// that is older is answered with resync.
//
// # Stored formats
//
// Everything stored begins with a format byte or is JSON whose unknown fields
// are ignored. Names of subjects, streams, buckets and headers are made in this
// package only.
package mesh
