package mesh

import "time"

// Requests and replies, as JSON. Paths in requests are as ResolvePath takes
// them; paths in replies are relative to the scope of the request.

// Route says which node hosts a workspace now, in which tenure.
type Route struct {
	Node  Node  `json:"node"`
	Epoch Epoch `json:"epoch"`
}

// PlaceRequest asks for the route of a workspace (api place open). Create makes
// the workspace when it does not exist; without it that is CodeNotFound.
type PlaceRequest struct {
	Workspace Workspace `json:"workspace"`
	Create    bool      `json:"create,omitempty"`
}

// NodeOpenRequest asks a node to take a workspace and open it (node open). After
// is the epoch that the router judged to be over: the node takes only from it.
type NodeOpenRequest struct {
	Tenant    Tenant    `json:"tenant"`
	Workspace Workspace `json:"workspace"`
	After     Epoch     `json:"after"`
	// Anyway: no node is there that runs commands; one that does not is asked to serve
	// the files.
	Anyway bool `json:"anyway,omitempty"`
}

// NodePingRequest names a workspace in a tenure: whether the node owns it (node
// ping), or that it shall remove it for good (node remove).
type NodePingRequest struct {
	Tenant    Tenant    `json:"tenant"`
	Workspace Workspace `json:"workspace"`
	Epoch     Epoch     `json:"epoch"`
}

// NodeSettleRequest asks the owner to end the log of an exec that it is not
// running (node settle).
type NodeSettleRequest struct {
	NodePingRequest
	ID ExecID `json:"id"`
}

// NodeSettleReply answers it.
type NodeSettleReply struct {
	Running bool `json:"running"` // it runs here, and its log is not ended
}

// NodeMoveRequest asks the owner to give a workspace to another node (node move). The
// reply says that it has begun.
type NodeMoveRequest struct {
	NodePingRequest
	To Node `json:"to"`
}

// NodeAheadRequest asks a node to copy the files of a workspace that another one owns,
// for when it is the next owner (node ahead). CodeBusy: it does, and is not ready; ask
// again.
type NodeAheadRequest struct {
	Tenant    Tenant    `json:"tenant"`
	Workspace Workspace `json:"workspace"`
}

// NodeForgetRequest has a node end all that it does for a tenant whose removal has begun.
type NodeForgetRequest struct {
	Tenant     Tenant `json:"tenant"`
	Generation uint64 `json:"generation"` // no later one
}

// NodePingReply answers NodePingRequest. State is one of the Ping… constants.
type NodePingReply struct {
	State string `json:"state"`
}

// States of a workspace on the node that was asked.
const (
	PingOpen    = "open"    // it serves, and its door is known to the server
	PingOpening = "opening" // it has taken the workspace and is not ready yet
	PingNotMe   = "not_me"  // it does not own it in that tenure
	PingLeaving = "leaving" // the same, and it opens nothing more: its process is ending
)

// ExecRequest starts a command. The content, if any, is its standard input.
// Args[0] is the program, looked up in the sandbox's PATH.
type ExecRequest struct {
	ID        ExecID `json:"id"`
	Args      []Path `json:"args"`
	Dir       Path   `json:"dir,omitempty"`        // working directory, relative to the scope
	Env       []Path `json:"env,omitempty"`        // NAME=value sets a variable, NAME alone takes a default of the sandbox away
	TimeoutMS int64  `json:"timeout_ms,omitempty"` // how long the command may live; 0: no limit
	MaxOutput int64  `json:"max_output,omitempty"` // bytes of output after which it is killed; 0: no limit
	// Narrower than the tenant's limits; more is CodeQuota, 0 is what the tenant has.
	MemoryBytes int64 `json:"memory_bytes,omitempty"`
	Pids        int64 `json:"pids,omitempty"`
	CPUMillis   int64 `json:"cpu_millis,omitempty"`

	Net        string `json:"net,omitempty"`        // none (default) or full
	Durability string `json:"durability,omitempty"` // sync (default), async or none: what its end waits for, see package node

	AllowDangerous bool `json:"allow_dangerous,omitempty"` // run what the command guard would refuse

	Terminal *TerminalSize `json:"terminal,omitempty"` // the command's standard files are a terminal, its output is on stdout

	// OpenStdin: the content is only the beginning of the standard input, which
	// StdinRequests continue and end.
	OpenStdin bool `json:"open_stdin,omitempty"`
}

// MaxArgs bounds the arguments and environment of one exec: 256 KiB in all.
const MaxArgs = 256 << 10

// ExecReply says that the exec is claimed: its frames are in the log.
type ExecReply struct {
	Attached bool `json:"attached"` // the id had been claimed before; nothing was started
	// Own, of an attached one that runs: it was an earlier try of this request that
	// started it, so its standard input is the caller's.
	Own bool `json:"own,omitempty"`
}

// SignalCancel in a SignalRequest is no signal: it ends the exec, with SIGTERM to
// every process and, after a short grace, SIGKILL to those that are left. Like
// KILL it keeps an exec from starting that has not started yet.
const SignalCancel = "CANCEL"

// SignalNames are what an exec can be sent: KILL goes to every process, at once, the
// others to its process group.
var SignalNames = []string{SignalCancel, "CONT", "HUP", "INT", "KILL", "QUIT", "STOP", "TERM", "USR1", "USR2"}

// SignalRequest sends one of SignalNames to an exec.
type SignalRequest struct {
	ID     ExecID `json:"id"`
	Signal string `json:"signal"`
}

// InfoReply describes an open workspace.
type InfoReply struct {
	Workspace  Workspace `json:"workspace"`
	Node       Node      `json:"node"`
	Epoch      Epoch     `json:"epoch"`
	Commit     string    `json:"commit"`      // the last one; empty: none was made yet
	JournalSeq uint64    `json:"journal_seq"` // stream sequence of the last journal record
	Isolation  string    `json:"isolation"`   // driver of the node's sandbox
	Capture    string    `json:"capture"`     // how changes of commands are found, see CaptureScan; empty where there are no files
	Execs      int       `json:"execs"`       // running now
	Net        string    `json:"net"`         // network of its commands that ask for none
	Settings   Settings  `json:"settings"`

	Origin *Origin `json:"origin,omitempty"` // what it was forked from

	Committed   *time.Time `json:"committed,omitempty"`    // when the commit was made
	CommitError string     `json:"commit_error,omitempty"` // why the last try to make one failed
	Lag         int        `json:"lag"`                    // changes that are in the journal and in no commit
	Captured    *time.Time `json:"captured,omitempty"`     // when a capture last ended in this tenure
	Ephemeral   []Path     `json:"ephemeral,omitempty"`    // directories, at any depth, that are not captured
}

// Values of InfoReply.Capture.
const (
	CaptureFanotify = "fanotify" // the kernel says what changed, and that is compared with what the journal says
	CaptureScan     = "scan"     // the whole tree is compared with what the journal says
	CaptureNone     = "none"     // not at all: a directory of the host has its files, and the mesh keeps no copy of what is changed there
)

// WorkspaceRequest names a workspace to create or remove (api workspace).
type WorkspaceRequest struct {
	Workspace Workspace `json:"workspace"`
	Settings            // of one to create
	Force     bool      `json:"force,omitempty"` // of one to remove: without its owner, whatever is broken
}

// WorkspaceSetRequest changes settings of a workspace (api workspace set). The reply,
// Settings, is what they are then.
type WorkspaceSetRequest struct {
	Workspace Workspace      `json:"workspace"`
	Change    SettingsChange `json:"change"`
}

// WorkspaceListRequest asks for names greater than After, at most Limit.
type WorkspaceListRequest struct {
	After Workspace `json:"after,omitempty"`
	Limit int       `json:"limit,omitempty"`
}

// WorkspaceEntry is one workspace of a listing.
type WorkspaceEntry struct {
	Name    Workspace `json:"name"`
	Created time.Time `json:"created"`
	Node    Node      `json:"node,omitempty"` // empty: not open anywhere
	Epoch   Epoch     `json:"epoch,omitempty"`
}

// WorkspaceListReply is one page, sorted by name.
type WorkspaceListReply struct {
	Workspaces []WorkspaceEntry `json:"workspaces"`
	More       bool             `json:"more"`
}

// WorkspaceDirRequest asks for a new workspace of a tenant whose tree is a
// directory of the node's host.
type WorkspaceDirRequest struct {
	Tenant    Tenant    `json:"tenant"`
	Workspace Workspace `json:"workspace"`
	Dir       Path      `json:"dir"` // absolute
	Settings            // without Zone and Labels: it is where its directory is
}

// WorkspaceConfirmRequest lets the readable copy of a workspace lose what its last commit
// has removed, and the mirror holds back. CodeNotFound says that nothing is held back.
type WorkspaceConfirmRequest struct {
	Tenant    Tenant    `json:"tenant"`
	Workspace Workspace `json:"workspace"`
}

// WorkspaceMoveRequest asks for a workspace to be on a node. It is asked again until
// the reply says that it is.
type WorkspaceMoveRequest struct {
	Tenant    Tenant    `json:"tenant"`
	Workspace Workspace `json:"workspace"`
	Node      Node      `json:"node"`
	FromDead  bool      `json:"from_dead,omitempty"` // the owner does not answer, and never will
}

// WorkspaceMoveReply answers it. Node and Epoch say where the workspace is once Done.
type WorkspaceMoveReply struct {
	Done  bool  `json:"done"`
	Node  Node  `json:"node,omitempty"`
	Epoch Epoch `json:"epoch,omitempty"`
}

// CollectRequest asks for the packs of a tenant that nothing refers to to be deleted. It
// is asked again, with the same id, until the reply says that it is done.
type CollectRequest struct {
	ID           string `json:"id"` // fresh; any node knows the outcome by it
	Tenant       Tenant `json:"tenant"`
	KeepLast     int    `json:"keep_last,omitempty"`      // newest commits of each workspace; 0: the node's default
	KeepWithinMS int64  `json:"keep_within_ms,omitempty"` // and those that are younger; 0: the node's default
	DryRun       bool   `json:"dry_run,omitempty"`        // delete nothing
}

// MirrorCollected is what was deleted on the mirror.
type MirrorCollected struct {
	Packs   int   `json:"packs"`
	Young   int   `json:"young"`
	Deleted int   `json:"deleted"`
	Bytes   int64 `json:"bytes"`
}

// CollectReply answers it. Bytes are as stored.
type CollectReply struct {
	Done       bool             `json:"done"`
	Tenant     Tenant           `json:"tenant"`
	Workspaces int              `json:"workspaces"`       // that were looked at
	Commits    int              `json:"commits"`          // that are kept
	Packs      int              `json:"packs"`            // that there were
	Young      int              `json:"young"`            // that nothing refers to, and that are too young
	Deleted    int              `json:"deleted"`          // or would be
	Bytes      int64            `json:"bytes"`            // of those
	Mirror     *MirrorCollected `json:"mirror,omitempty"` // where there is one
}

// MeshRestoreRequest asks for the mesh to be made of the copy at URL, which is that of the
// nodes' mirror. It is asked again until the reply says that it is done.
type MeshRestoreRequest struct {
	URL    string `json:"url"`
	Partly bool   `json:"partly,omitempty"` // ends it although something could not be restored
}

// MeshRestoreReply answers it.
type MeshRestoreReply struct {
	Done       bool     `json:"done"`
	Tenants    []Tenant `json:"tenants"`
	Workspaces int      `json:"workspaces"` // that are there, of the copy's
	Snapshots  int      `json:"snapshots"`  // of those
	Keys       int      `json:"keys"`       // of memories that this request has put
	Failed     []string `json:"failed"`     // what could not be restored, and why
}

// TenantRequest names a tenant to create.
type TenantRequest struct {
	Tenant Tenant `json:"tenant"`
}

// TenantEntry is one tenant of a listing.
type TenantEntry struct {
	Name     Tenant     `json:"name"`
	Created  time.Time  `json:"created"`
	Removing *time.Time `json:"removing,omitempty"` // since when it is being removed; everything is refused to it
}

// TenantListRequest asks for a page of the tenants.
type TenantListRequest struct {
	After Tenant `json:"after,omitempty"` // the last one of the page before
}

// TenantListReply is a page of the tenants, sorted by name.
type TenantListReply struct {
	Tenants []TenantEntry `json:"tenants"`
	More    bool          `json:"more,omitempty"`
}

// TenantRemoveRequest removes a tenant, in turns: it is asked again until the reply says
// that it is done. Without a Generation it only asks for that: a request that is late does
// nothing to a later tenant of the name.
type TenantRemoveRequest struct {
	Tenant     Tenant `json:"tenant"`
	Generation uint64 `json:"generation,omitempty"`
	Force      bool   `json:"force,omitempty"` // although it has workspaces, or memory
	Told       bool   `json:"told,omitempty"`  // the servers know whom they must not let in any more
}

// TenantRemoveReply answers it. The first turn with a Generation records all tokens as
// revoked; the operator then tells the servers.
type TenantRemoveReply struct {
	Done       bool   `json:"done"`
	Generation uint64 `json:"generation"`
	Workspaces int    `json:"workspaces"`      // that are still there
	Waits      Node   `json:"waits,omitempty"` // it does not answer, and may not be dead
	Away       []Node `json:"away,omitempty"`  // are dead; what they have of the tenant goes when they start
}

// TokenIssueRequest asks for a token of a tenant, of one of its workspaces, or
// of one path of a workspace. TTLMS 0 never expires.
type TokenIssueRequest struct {
	Tenant    Tenant    `json:"tenant"`
	Workspace Workspace `json:"workspace,omitempty"`
	Scope     Path      `json:"scope,omitempty"` // needs Workspace
	TTLMS     int64     `json:"ttl_ms,omitempty"`
}

// TokenEntry describes a token without being one.
type TokenEntry struct {
	ID        TokenID    `json:"id"`
	Tenant    Tenant     `json:"tenant"`
	Workspace Workspace  `json:"workspace,omitempty"` // the one it is bound to
	Scope     Path       `json:"scope,omitempty"`     // the path in it that it is bound to
	Issued    time.Time  `json:"issued"`
	Expires   *time.Time `json:"expires,omitempty"`
	Revoked   *time.Time `json:"revoked,omitempty"`
}

// TokenRevokeRequest records that a token is revoked; without an id it asks which are. The
// operator tells the servers.
type TokenRevokeRequest struct {
	ID    TokenID `json:"id,omitempty"`
	After TokenID `json:"after,omitempty"` // the last one of the page before
}

// TokenRevokeReply is a page of the tokens that are revoked and have not expired, by any
// clock of the mesh.
type TokenRevokeReply struct {
	Revoked []RevokedToken `json:"revoked"`
	More    bool           `json:"more,omitempty"`
}

// RevokedToken says whom servers must not let in any more.
type RevokedToken struct {
	TokenEntry
	User string `json:"user"` // public key
}

// TokenIssueReply carries the one copy of the token.
type TokenIssueReply struct {
	TokenEntry
	Token string `json:"token"`
}

// TokenListRequest asks for a page of the tokens on record.
type TokenListRequest struct {
	After TokenID `json:"after,omitempty"` // the last one of the page before
}

// TokenListReply is a page of the tokens on record, sorted by tenant and time.
type TokenListReply struct {
	Tokens []TokenEntry `json:"tokens"`
	More   bool         `json:"more,omitempty"`
}

// NodeStatus describes a live node.
type NodeStatus struct {
	Node       Node           `json:"node"`
	State      string         `json:"state"` // up, or silent: it does not answer
	Version    string         `json:"version"`
	Started    time.Time      `json:"started"`
	Workspaces int            `json:"workspaces"`      // open now
	Isolation  any            `json:"isolation"`       // the sandbox's level, as it reports it
	Capture    string         `json:"capture"`         // how changes of commands are found: CaptureFanotify or CaptureScan
	Files      int            `json:"files,omitempty"` // that a command may have open; of the node that answers only
	Warm       WarmStatus     `json:"warm"`            // sandboxes that are kept, of the node that answers only
	Sync       string         `json:"sync"`            // always or interval: when NATS syncs; empty where the node does not know
	Replicas   int            `json:"replicas"`        // of the streams it works on
	Requests   ResponderStats `json:"requests"`
	// Net is the most network that commands may have; Isolation says whether it is
	// held. Egress counts what went through the proxy; of the node that answers only.
	Net    string `json:"net"`
	Egress any    `json:"egress,omitempty"`

	Zone   string            `json:"zone,omitempty"`
	Labels map[string]string `json:"labels,omitempty"`
	Room   NodeRoom          `json:"room"`
	// Unfit is why no workspace is placed there now, for as long as that lasts.
	Unfit string `json:"unfit,omitempty"`
}

// States of a node, as status has them.
const (
	NodeUp     = "up"
	NodeSilent = "silent"
)

// WarmStatus is the sandboxes that a node keeps, and the memory that their own
// processes take.
type WarmStatus struct {
	Sandboxes int   `json:"sandboxes"`
	Bytes     int64 `json:"bytes"`
}

// StatusReply is the answer to admin status.
type StatusReply struct {
	Nodes  []NodeStatus     `json:"nodes"`
	Limits map[string]int64 `json:"limits"` // every exported Default…, by name
	Mirror *MirrorStatus    `json:"mirror,omitempty"`
}

// MirrorStatus says how far the copy outside of the mesh is.
type MirrorStatus struct {
	URL     string  `json:"url"`
	Bytes   int64   `json:"bytes"`   // of changes of files that are in no copied commit, and about those of memories and records
	Seconds float64 `json:"seconds"` // since the oldest change that is not copied; 0: all is
	Paused  bool    `json:"paused,omitempty"`
	Error   string  `json:"error,omitempty"` // why nothing is copied, or was not the last time

	FilesSeconds float64 `json:"files_seconds,omitempty"` // since the oldest commit that the readable copy does not show
	FilesError   string  `json:"files_error,omitempty"`   // why it was not made the last time, or what it is held back for
}

// VerifyReply says what a workspace's verification has found (verify). One takes as
// long as its content is large: a request is answered after two seconds at the latest,
// and is sent again with the same Mesh-Id until one is Done.
type VerifyReply struct {
	Done bool  `json:"done"`
	Read int64 `json:"read"` // bytes of packs

	Node       Node   `json:"node,omitempty"`        // whose tree was compared
	Commit     string `json:"commit,omitempty"`      // the last one; empty: there is none
	JournalSeq uint64 `json:"journal_seq,omitempty"` // stream sequence of the last record
	Records    int    `json:"records"`               // that follow the commit
	Packs      int    `json:"packs"`
	Names      int    `json:"names"`   // of the commit's tree
	Local      int    `json:"local"`   // names of the node's tree that are what the journal says, or that were compared with it
	Changed    int    `json:"changed"` // names that changed since they were captured last: not compared

	Broken []Broken `json:"broken"`
	More   bool     `json:"more,omitempty"` // more is broken than is named
}

// Broken is something that is not what its name says, or is not there.
type Broken struct {
	Kind string `json:"kind"`           // one of the Broken… constants
	Path Path   `json:"path,omitempty"` // of whose content it is, relative to the scope
	Name string `json:"name,omitempty"` // of the pack, commit or blob
	Text string `json:"text"`
}

// Kinds of what is broken.
const (
	BrokenJournal = "journal" // a record is missing or another one; those behind it cannot be used
	BrokenCommit  = "commit"
	BrokenPack    = "pack"    // its bytes are not those that were stored, or it is not there
	BrokenContent = "content" // of Path, in the store: a file's, or the names in a directory
	BrokenLocal   = "local"   // a file of the node's tree has other content than the journal says
)

// RecoverRequest makes a workspace whose files cannot be restored what it was at a
// commit (recover): From is its name; "" is the newest that is whole, with what of the
// records behind it is. As VerifyReply, it is sent again until one is Done.
type RecoverRequest struct {
	From string `json:"from,omitempty"`
}

// RecoverReply says what a recovered workspace is, and what it has lost.
type RecoverReply struct {
	Done bool  `json:"done"`
	Read int64 `json:"read"` // bytes of packs

	Commit string    `json:"commit,omitempty"` // the new one
	From   string    `json:"from,omitempty"`   // the one that it was made of; empty: records alone
	Number uint64    `json:"number,omitempty"` // the last record of the journal that is in it
	Time   time.Time `json:"time"`             // of that record
	Reason string    `json:"reason,omitempty"` // what is wrong with the one behind it

	Records uint64         `json:"records"`        // that are given up
	Lost    []HistoryEntry `json:"lost,omitempty"` // what is known of what they said, the newest first
	More    bool           `json:"more,omitempty"` // Lost is not all of it
}
