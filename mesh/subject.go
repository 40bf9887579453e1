package mesh

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
)

// Every subject, stream and bucket name of the mesh is made in this file and
// nowhere else. Arguments are parsed ids; verbs are the constants below.

// Verbs of the owner of a workspace.
const (
	VerbExec     = "exec"
	VerbSignal   = "signal"
	VerbStdin    = "stdin"
	VerbResize   = "resize"
	VerbPs       = "ps"
	VerbStat     = "stat"
	VerbList     = "list"
	VerbRead     = "read"
	VerbWrite    = "write"
	VerbMkdir    = "mkdir"
	VerbRemove   = "remove"
	VerbRename   = "rename"
	VerbCopy     = "copy"
	VerbChmod    = "chmod"
	VerbSymlink  = "symlink"
	VerbReadlink = "readlink"
	VerbTouch    = "touch"
	VerbSearch   = "search"
	VerbGrep     = "grep"
	VerbEdit     = "edit"
	VerbUpload   = "upload"
	VerbDownload = "download"
	VerbInfo     = "info"
	VerbRelease  = "release"
	VerbHistory  = "history"
	VerbVerify   = "verify"
	VerbRecover  = "recover"
	VerbCommit   = "commit"
	VerbSnapshot = "snapshot"
	VerbRestore  = "restore"
)

// Services and verbs of api.v1.
const (
	ServicePlace     = "place"
	ServiceLog       = "log"
	ServiceWorkspace = "workspace"
	ServiceMemory    = "mem"
	ServiceSnapshot  = "snapshot"

	VerbPlaceOpen       = "open"    // route to a workspace, opening it if need be
	VerbLogRead         = "read"    // frames of one exec from a sequence on
	VerbLogChanges      = "changes" // what changed in a workspace since a cursor; may wait for it
	VerbLogList         = "list"    // execs whose logs are kept, paged
	VerbWorkspaceCreate = "create"  // make a workspace record
	VerbWorkspaceList   = "list"    // workspaces of the tenant, paged
	VerbWorkspaceRemove = "rm"      // remove a workspace and its files
	VerbWorkspaceFork   = "fork"    // make a workspace of a commit of another
	VerbWorkspaceSet    = "set"     // change a workspace's settings
	VerbMemoryGet       = "get"     // a key's value
	VerbMemoryCommit    = "commit"  // change keys, all or none
	VerbMemoryList      = "list"    // keys, paged
	VerbMemoryWatch     = "watch"   // what changed since a cursor; may wait for it
	VerbSnapshotList    = "list"    // snapshots of a workspace, paged
	VerbSnapshotFind    = "find"    // the commit that a name, a commit or a time means
	VerbSnapshotRemove  = "rm"      // remove a snapshot
	VerbSnapshotDiff    = "diff"    // what differs between two commits, paged
)

// AtVerb is the verb of the service of snapshots that reads what a workspace was as the
// owner's verb, stat list read or readlink, reads what it is.
func AtVerb(verb string) string { return "at-" + verb }

// Verbs between nodes.
const (
	VerbNodeOpen   = "open"
	VerbNodePing   = "ping"
	VerbNodeRemove = "remove"
	VerbNodeSettle = "settle"
	VerbNodeMove   = "move"
	VerbNodeAhead  = "ahead"
	VerbNodeReread = "reread" // settings of a workspace, which have changed
	VerbNodeForget = "forget" // a tenant that is being removed
)

// Verbs of the operator.
const (
	VerbAdminStatus       = "status"
	VerbAdminTenantCreate = "tenant-create"
	VerbAdminTenantList   = "tenant-list"
	VerbAdminTenantQuota  = "tenant-quota" // read or set a tenant's limits
	VerbAdminTenantRemove = "tenant-rm"    // for good, with all that is its own
	VerbAdminTokenIssue   = "token-issue"
	VerbAdminTokenRevoke  = "token-revoke"
	VerbAdminTokenList    = "token-list"
	VerbAdminWorkspaceDir = "workspace-dir" // create a workspace in a directory of the node's host
	VerbAdminMove         = "workspace-move"
	VerbAdminConfirm      = "workspace-confirm" // let its readable copy lose what is held back
	VerbAdminRestore      = "restore"           // make the mesh of its copy
	VerbAdminCollect      = "collect"           // delete a tenant's packs that nothing refers to
)

// OwnerSubject addresses the owner of a workspace in one tenure:
// ws.v1.<tenant>.<workspace>.<epoch>.<verb>.
func OwnerSubject(t Tenant, w Workspace, e Epoch, verb string) string {
	return "ws.v1." + string(t) + "." + string(w) + "." + e.String() + "." + verb
}

// OwnerWildcard is what the owner of a workspace subscribes: both forms of its
// subjects.
func OwnerWildcard(t Tenant, w Workspace, e Epoch) string { return OwnerSubject(t, w, e, ">") }

// APISubject addresses any node: api.v1.<tenant>.<service>.<verb>.
func APISubject(t Tenant, service, verb string) string {
	return "api.v1." + string(t) + "." + service + "." + verb
}

// APINodeSubject addresses one node: api.v1.<tenant>.<service>.<verb>.<node>.
func APINodeSubject(t Tenant, service, verb string, n Node) string {
	return APISubject(t, service, verb) + "." + string(n)
}

// APIWildcards are what every node subscribes in the queue group APIQueue.
var APIWildcards = []string{"api.v1.*.*.*", "api.v1.*.*.*." + anyNode + ".*.*.*"}

// APIQueue is the queue group of all nodes.
const APIQueue = "api"

// APINodeWildcards are what node n subscribes for requests addressed to it.
func APINodeWildcards(n Node) []string {
	return []string{"api.v1.*.*.*." + string(n), "api.v1.*.*.*." + string(n) + ".*.*.*"}
}

// anyNode stands in the place of the node in a bound token's subject for the
// queue group. No node can be called like it.
const anyNode = "_"

// AdminSubject addresses any node on behalf of the operator.
func AdminSubject(verb string) string { return "admin.v1." + verb }

// AdminWildcard is what every node subscribes in the queue group AdminQueue.
const (
	AdminWildcard = "admin.v1.*"
	AdminQueue    = "admin"
)

// NodeSubject addresses one node on behalf of a router.
func NodeSubject(n Node, verb string) string { return "node.v1." + string(n) + "." + verb }

// OutSubject is where the frames of one exec appear once they are stored.
func OutSubject(t Tenant, w Workspace, id ExecID) string {
	return "out.v1." + string(t) + "." + string(w) + "." + string(id)
}

// EventSubject is where the headers of a workspace's journal records appear.
func EventSubject(t Tenant, w Workspace) string {
	return "ev.v1." + string(t) + "." + string(w)
}

// JournalSubject is where the owner publishes the records of a workspace.
func JournalSubject(shard int, t Tenant, w Workspace) string {
	return fmt.Sprintf("int.v1.journal.%02d.%s.%s", shard, t, w)
}

// ParseJournalSubject is the inverse of JournalSubject; the error has CodeInvalid.
func ParseJournalSubject(subject string) (shard int, t Tenant, w Workspace, err error) {
	p := strings.Split(subject, ".")
	if len(p) == 6 && p[2] == "journal" {
		if shard, err = strconv.Atoi(p[3]); err == nil {
			t, err = ParseTenant(p[4])
		}
		if err == nil {
			w, err = ParseWorkspace(p[5])
		}
	}
	if err != nil || shard < 0 || JournalSubject(shard, t, w) != subject {
		return 0, "", "", Errorf(CodeInvalid, "subject %.80q is not one of a journal", subject)
	}
	return shard, t, w, nil
}

// ParseRecordSubject returns the bucket and the key of a record in JetStream KV, "" for
// other subjects.
func ParseRecordSubject(subject string) (bucket, key string) {
	p := strings.SplitN(subject, ".", 3)
	if len(p) != 3 || p[0] != "$KV" {
		return "", ""
	}
	return p[1], p[2]
}

// ExecLogSubject is where the owner publishes the frames of an exec.
func ExecLogSubject(shard int, t Tenant, w Workspace, id ExecID) string {
	return fmt.Sprintf("int.v1.out.%02d.%s.%s.%s", shard, t, w, id)
}

// ExecLogsWildcard names every frame of all execs of a tenant.
func ExecLogsWildcard(shard int, t Tenant) string {
	return fmt.Sprintf("int.v1.out.%02d.%s.>", shard, t)
}

// PackSubject is where one part of a pack is stored, numbered from 0. The last
// part stands on PackEndSubject instead, whatever its number.
func PackSubject(shard int, t Tenant, pack [sha256.Size]byte, part int) string {
	return fmt.Sprintf("int.v1.pack.%02d.%s.%x.%d", shard, t, pack, part)
}

// PackEndSubject is where the last part of a pack is stored, after all others: a
// pack without it does not exist.
func PackEndSubject(shard int, t Tenant, pack [sha256.Size]byte) string {
	return fmt.Sprintf("int.v1.pack.%02d.%s.%x.end", shard, t, pack)
}

// PackWildcard names every part of a pack.
func PackWildcard(shard int, t Tenant, pack [sha256.Size]byte) string {
	return fmt.Sprintf("int.v1.pack.%02d.%s.%x.*", shard, t, pack)
}

// PacksWildcard names every part of all packs of a tenant.
func PacksWildcard(shard int, t Tenant) string {
	return fmt.Sprintf("int.v1.pack.%02d.%s.*.*", shard, t)
}

// PackEndWildcard names the last parts of all packs of a tenant.
func PackEndWildcard(shard int, t Tenant) string {
	return fmt.Sprintf("int.v1.pack.%02d.%s.*.end", shard, t)
}

// ParsePackSubject returns the pack that a part's subject is of, and whether that is
// the last part; the error has CodeInvalid.
func ParsePackSubject(subject string) (pack [sha256.Size]byte, end bool, err error) {
	p := strings.Split(subject, ".")
	if len(p) == 7 && strings.HasPrefix(subject, "int.v1.pack.") && len(p[5]) == hex.EncodedLen(len(pack)) {
		_, bad := strconv.ParseUint(p[6], 10, 31)
		end = p[6] == "end"
		if _, err := hex.Decode(pack[:], []byte(p[5])); err == nil && p[5] == strings.ToLower(p[5]) && (end || bad == nil) {
			return pack, end, nil
		}
	}
	return pack, false, Errorf(CodeInvalid, "subject %.200q is not int.v1.pack.<shard>.<tenant>.<pack>.<part>", subject)
}

// JournalStream names the journal stream of a shard.
func JournalStream(shard int) string { return fmt.Sprintf("JOURNAL_%02d", shard) }

// ExecLogStream names the exec log stream of a shard.
func ExecLogStream(shard int) string { return fmt.Sprintf("EXECLOG_%02d", shard) }

// PackStream names the stream of packs of a shard.
func PackStream(shard int) string { return fmt.Sprintf("PACKS_%02d", shard) }

// Buckets in JetStream KV.
const (
	BucketOwners     = "owners"
	BucketNodes      = "nodes"
	BucketWorkspaces = "workspaces"
	BucketTenants    = "tenants"
	BucketSnapshots  = "snapshots"
	BucketGarbage    = "garbage"
)

// InboxPrefix is the inbox of one token or connection, without the final dot:
// _INBOX.<principal>.<id>. The principal is a tenant's name, PrincipalAdmin or
// PrincipalNode.
func InboxPrefix(principal, id string) string { return "_INBOX." + principal + "." + id }

// Principal returns who may have published on a request subject: the tenant of
// ws.v1 and api.v1 subjects, PrincipalNode for node.v1, PrincipalAdmin for
// admin.v1, and "" for every other subject.
func Principal(subject string) string {
	family, rest, _ := strings.Cut(subject, ".")
	version, rest, _ := strings.Cut(rest, ".")
	first, _, _ := strings.Cut(rest, ".")
	if version != "v1" || first == "" {
		return ""
	}
	switch family {
	case "ws", "api":
		if t, err := ParseTenant(first); err == nil {
			return string(t)
		}
	case "node":
		return PrincipalNode
	case "admin":
		return PrincipalAdmin
	}
	return ""
}

// OwnerAddress is a parsed ws.v1 subject.
type OwnerAddress struct {
	Tenant    Tenant
	Workspace Workspace
	Epoch     Epoch
	Verb      string
	Bound     *Bound // of a bound token's subject
}

// ParseOwnerSubject is the inverse of OwnerSubject and Bound.OwnerSubject; the
// error has CodeInvalid.
func ParseOwnerSubject(subject string) (a OwnerAddress, err error) {
	p := strings.Split(subject, ".")
	if (len(p) != 6 && len(p) != 8) || p[0] != "ws" || p[1] != "v1" || p[5] == "" {
		return OwnerAddress{}, Errorf(CodeInvalid, "subject %.80q is not ws.v1.<tenant>.<workspace>.<epoch>.<verb>", subject)
	}
	a.Verb = p[5]
	if a.Tenant, err = ParseTenant(p[2]); err == nil {
		if a.Workspace, err = ParseWorkspace(p[3]); err == nil {
			a.Epoch, err = ParseEpoch(p[4])
		}
	}
	if err == nil && len(p) == 8 {
		a.Bound, err = parseBound(p[6], p[3], p[7])
	}
	if err != nil {
		return OwnerAddress{}, err
	}
	return a, nil
}

// APIAddress is a parsed api.v1 subject; Node is empty for the group's form.
type APIAddress struct {
	Tenant  Tenant
	Service string
	Verb    string
	Node    Node
	Bound   *Bound // of a bound token's subject
}

// ParseAPISubject is the inverse of APISubject, APINodeSubject and
// Bound.APISubject; the error has CodeInvalid.
func ParseAPISubject(subject string) (a APIAddress, err error) {
	p := strings.Split(subject, ".")
	if (len(p) != 5 && len(p) != 6 && len(p) != 9) || p[0] != "api" || p[1] != "v1" || p[3] == "" || p[4] == "" {
		return APIAddress{}, Errorf(CodeInvalid, "subject %.80q is not api.v1.<tenant>.<service>.<verb>[.<node>]", subject)
	}
	a.Service, a.Verb = p[3], p[4]
	a.Tenant, err = ParseTenant(p[2])
	if err == nil && len(p) > 5 && (len(p) != 9 || p[5] != anyNode) {
		a.Node, err = ParseNode(p[5])
	}
	if err == nil && len(p) == 9 {
		a.Bound, err = parseBound(p[6], p[7], p[8])
	}
	if err != nil {
		return APIAddress{}, err
	}
	return a, nil
}

// Verb returns the verb of a request subject of any family, "" if it has none.
func Verb(subject string) string {
	p := strings.Split(subject, ".")
	at, known := map[string]int{"ws": 5, "api": 4, "node": 3, "admin": 2}[p[0]]
	if !known || len(p) <= at {
		return ""
	}
	return p[at]
}
