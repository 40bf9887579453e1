package node

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/wsmesh/wsmesh/kv"
	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/mesh/auth"
	"github.com/wsmesh/wsmesh/node/egress"
	"github.com/wsmesh/wsmesh/objstore/mirror"
	"github.com/wsmesh/wsmesh/router"
	"github.com/wsmesh/wsmesh/sandbox"
)

// answerAdmin answers the operator.
func (n *Node) answerAdmin(ctx context.Context, req *mesh.Request) (*mesh.Reply, error) {
	switch req.Verb {
	case mesh.VerbAdminStatus:
		return n.status(ctx)
	case mesh.VerbAdminTenantCreate:
		t, err := tenantIn(req)
		if err != nil {
			return nil, err
		}
		r, err := n.kv.Tenants.Create(ctx, t)
		return &mesh.Reply{Args: mesh.TenantEntry{Name: r.Name, Created: r.Created}}, err
	case mesh.VerbAdminTenantQuota:
		return n.tenantQuota(ctx, req)
	case mesh.VerbAdminTenantList:
		return n.listTenants(ctx, req)
	case mesh.VerbAdminTenantRemove:
		return n.removeTenant(ctx, req)
	case mesh.VerbAdminTokenIssue:
		return n.issueToken(ctx, req)
	case mesh.VerbAdminTokenRevoke:
		return n.revokeToken(ctx, req)
	case mesh.VerbAdminWorkspaceDir:
		return nil, n.createInDir(ctx, req)
	case mesh.VerbAdminMove:
		return n.moveWorkspace(ctx, req)
	case mesh.VerbAdminCollect:
		return n.answerCollect(ctx, req)
	case mesh.VerbAdminConfirm:
		return nil, n.confirmFiles(ctx, req)
	case mesh.VerbAdminRestore:
		return n.answerRestore(ctx, req)
	case mesh.VerbAdminTokenList:
		return n.listTokens(ctx, req)
	default:
		return nil, mesh.Errorf(mesh.CodeUnsupported, "unknown operator request %.40q", req.Verb)
	}
}

func tenantIn(req *mesh.Request) (mesh.Tenant, error) {
	var a mesh.TenantRequest
	if err := req.Args(&a); err != nil {
		return "", err
	}
	return mesh.ParseTenant(string(a.Tenant))
}

// Limits is every bound of a node by the name of its exported constant; with _ms
// it is in milliseconds.
func Limits() map[string]int64 {
	return map[string]int64{
		"egress.DefaultConns":          egress.DefaultConns,
		"egress.DefaultDialTime_ms":    egress.DefaultDialTime.Milliseconds(),
		"egress.DefaultHeaderTime_ms":  egress.DefaultHeaderTime.Milliseconds(),
		"egress.DefaultIdle_ms":        egress.DefaultIdle.Milliseconds(),
		"egress.DefaultSandboxConns":   egress.DefaultSandboxConns,
		"egress.MaxHeaderBytes":        egress.MaxHeaderBytes,
		"egress.MaxHosts":              egress.MaxHosts,
		"kv.DefaultMemoryBatches":      kv.DefaultMemoryBatches,
		"kv.DefaultMemoryBytes":        kv.DefaultMemoryBytes,
		"kv.DefaultMemoryKeys":         kv.DefaultMemoryKeys,
		"mirror.GuardedFiles":          mirror.GuardedFiles,
		"mirror.MaxExtra":              mirror.MaxExtra,
		"mirror.MaxHoles":              mirror.MaxHoles,
		"mesh.DefaultLogAge_ms":        mesh.DefaultLogAge.Milliseconds(),
		"mesh.DefaultMaxInFlight":      mesh.DefaultMaxInFlight,
		"mesh.DefaultRequestTime_ms":   mesh.DefaultRequestTime.Milliseconds(),
		"mesh.DefaultSettle_ms":        mesh.DefaultSettle.Milliseconds(),
		"mesh.DefaultStdinBuffer":      mesh.DefaultStdinBuffer,
		"mesh.MaxArgs":                 mesh.MaxArgs,
		"mesh.MaxBoundScope":           mesh.MaxBoundScope,
		"mesh.MaxCommit":               mesh.MaxCommit,
		"mesh.MaxEdit":                 mesh.MaxEdit,
		"mesh.MaxDiffFile":             mesh.MaxDiffFile,
		"mesh.MaxDiffText":             mesh.MaxDiffText,
		"mesh.MaxEdits":                mesh.MaxEdits,
		"mesh.MaxEphemeral":            mesh.MaxEphemeral,
		"mesh.MaxKeyBytes":             mesh.MaxKeyBytes,
		"mesh.MaxLabels":               mesh.MaxLabels,
		"mesh.MaxList":                 mesh.MaxList,
		"mesh.MaxMessage":              mesh.MaxMessage,
		"mesh.MaxSnapshotText":         mesh.MaxSnapshotText,
		"mesh.MaxStdinWait_ms":         mesh.MaxStdinWait.Milliseconds(),
		"mesh.MaxValueBytes":           mesh.MaxValueBytes,
		"mesh.TombstoneTTL_ms":         mesh.TombstoneTTL.Milliseconds(),
		"node.DefaultAnswerAge_ms":     DefaultAnswerAge.Milliseconds(),
		"node.DefaultAnswers":          DefaultAnswers,
		"node.DefaultCommitAfter_ms":   DefaultCommitAfter.Milliseconds(),
		"node.DefaultCollectAge_ms":    DefaultCollectAge.Milliseconds(),
		"node.DefaultCollectEvery_ms":  DefaultCollectEvery.Milliseconds(),
		"node.DefaultDiskBytes":        DefaultDiskBytes,
		"node.DefaultDiskFiles":        DefaultDiskFiles,
		"node.DefaultDownloadIdle_ms":  DefaultDownloadIdle.Milliseconds(),
		"node.DefaultGrace_ms":         DefaultGrace.Milliseconds(),
		"node.DefaultHistory":          DefaultHistory,
		"node.DefaultIdle_ms":          DefaultIdle.Milliseconds(),
		"node.DefaultMaxBulk":          DefaultMaxBulk,
		"node.DefaultMaxCounts":        DefaultMaxCounts,
		"node.DefaultMaxCreations":     DefaultMaxCreations,
		"node.DefaultMaxDownloads":     DefaultMaxDownloads,
		"node.DefaultMaxEdits":         DefaultMaxEdits,
		"node.DefaultMaxExecs":         DefaultMaxExecs,
		"node.DefaultMaxFiles":         DefaultMaxFiles,
		"node.DefaultMaxLists":         DefaultMaxLists,
		"node.DefaultKeepLast":         DefaultKeepLast,
		"node.DefaultKeepWithin_ms":    DefaultKeepWithin.Milliseconds(),
		"node.DefaultLogFrames":        DefaultLogFrames,
		"node.DefaultMaxLog":           DefaultMaxLog,
		"node.DefaultMaxLogs":          DefaultMaxLogs,
		"node.DefaultMaxOpen":          DefaultMaxOpen,
		"node.DefaultMeanwhile_ms":     DefaultMeanwhile.Milliseconds(),
		"node.DefaultQuiet_ms":         DefaultQuiet.Milliseconds(),
		"node.DefaultMinFree":          DefaultMinFree,
		"node.DefaultSweep_ms":         DefaultSweep.Milliseconds(),
		"node.DefaultProbe_ms":         DefaultProbe.Milliseconds(),
		"node.DefaultProbeTime_ms":     DefaultProbeTime.Milliseconds(),
		"node.DefaultMaxSearches":      DefaultMaxSearches,
		"node.DefaultMaxTail":          DefaultMaxTail,
		"node.DefaultMaxVerifies":      DefaultMaxVerifies,
		"node.DefaultMirrorAfter_ms":   DefaultMirrorAfter.Milliseconds(),
		"node.DefaultMaxWorkspaces":    DefaultMaxWorkspaces,
		"router.DefaultSilence_ms":     router.DefaultSilence.Milliseconds(),
		"sandbox.DefaultFileBytes":     sandbox.DefaultFileBytes,
		"sandbox.DefaultFiles":         sandbox.DefaultFiles,
		"sandbox.DefaultGrace_ms":      sandbox.DefaultGrace.Milliseconds(),
		"sandbox.DefaultGrepBytes":     sandbox.DefaultGrepBytes,
		"sandbox.DefaultMaxStages":     sandbox.DefaultMaxStages,
		"sandbox.DefaultMemoryBytes":   sandbox.DefaultMemoryBytes,
		"sandbox.DefaultPids":          sandbox.DefaultPids,
		"sandbox.DefaultSearchEntries": sandbox.DefaultSearchEntries,
		"sandbox.DefaultSearchTime_ms": sandbox.DefaultSearchTime.Milliseconds(),
		"sandbox.DefaultShmBytes":      sandbox.DefaultShmBytes,
		"sandbox.DefaultStageIdle_ms":  sandbox.DefaultStageIdle.Milliseconds(),
		"sandbox.DefaultTarBytes":      sandbox.DefaultTarBytes,
		"sandbox.DefaultTarEntries":    sandbox.DefaultTarEntries,
		"sandbox.DefaultTerminals":     sandbox.DefaultTerminals,
		"sandbox.DefaultTmpBytes":      sandbox.DefaultTmpBytes,
		"sandbox.DefaultWarm":          sandbox.DefaultWarm,
		"sandbox.DefaultWarmIdle_ms":   sandbox.DefaultWarmIdle.Milliseconds(),
		"sandbox.DefaultWarmScratch":   sandbox.DefaultWarmScratch,
	}
}

func (n *Node) status(ctx context.Context) (*mesh.Reply, error) {
	records, err := n.kv.Nodes.List(ctx)
	if err != nil {
		return nil, err
	}
	reply := mesh.StatusReply{Nodes: []mesh.NodeStatus{}, Limits: Limits(), Mirror: n.mirror.status(ctx, records)}
	answers := n.whoAnswers(ctx, records)
	for i, r := range records {
		state := mesh.NodeUp
		if !answers[i] {
			state = mesh.NodeSilent
		}
		if r.Draining || state == mesh.NodeSilent && time.Since(r.Renewed) > forgetAfter {
			continue
		}
		s := mesh.NodeStatus{Node: r.Node, State: state, Version: r.Version, Started: r.Started, Workspaces: r.Workspaces, Isolation: r.Isolation, Capture: r.Capture, Sync: r.Sync, Replicas: r.Replicas, Net: r.Net}
		s.Zone, s.Labels, s.Room, s.Unfit = r.Zone, r.Labels, r.Room, r.Unfit
		if r.Node == n.cfg.Name {
			door, peers := n.door.Stats(), n.peers.Stats()
			s.Requests = mesh.ResponderStats{Dropped: door.Dropped + peers.Dropped, Busy: door.Busy + peers.Busy}
			s.Isolation, s.Egress = n.runner.Level(), n.network.proxy.Stats()
			s.Warm.Sandboxes, s.Warm.Bytes = n.runner.WarmUsage()
			if s.Files, err = sandbox.OpenFiles(); err != nil {
				return nil, err
			}
		}
		reply.Nodes = append(reply.Nodes, s)
	}
	return &mesh.Reply{Args: reply}, nil
}

// moveTry bounds one request to move a workspace; who wants it asks again.
const moveTry = 5 * time.Second

func (n *Node) moveWorkspace(ctx context.Context, req *mesh.Request) (*mesh.Reply, error) {
	var a mesh.WorkspaceMoveRequest
	if err := req.Args(&a); err != nil {
		return nil, err
	}
	if _, err := mesh.ParseTenant(string(a.Tenant)); err != nil {
		return nil, err
	}
	if _, err := mesh.ParseWorkspace(string(a.Workspace)); err != nil {
		return nil, err
	}
	if _, err := mesh.ParseNode(string(a.Node)); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, moveTry)
	defer cancel()
	record, err := n.kv.Workspaces.Get(ctx, a.Tenant, a.Workspace)
	if err != nil {
		return nil, err
	}
	if record.Dir != "" {
		return nil, mesh.Errorf(mesh.CodeUnsupported, "workspace %s is a directory of its node's machine, and stays there", a.Workspace)
	}
	reply, err := n.router.Move(ctx, &record, a.Node, a.FromDead)
	return &mesh.Reply{Args: reply}, err
}

// forgetAfter is how long status goes on showing a node that is gone without a word.
const forgetAfter = 24 * time.Hour

// whoAnswers asks every node on record at the same time.
func (n *Node) whoAnswers(ctx context.Context, all []kv.NodeEntry) []bool {
	answers := make([]bool, len(all))
	var wg sync.WaitGroup
	for i, r := range all {
		if !r.Draining {
			wg.Go(func() { answers[i] = n.router.Answers(ctx, r.Node) })
		}
	}
	wg.Wait()
	return answers
}

// tenantPage is how many tenants are in one page: each takes up to 200 bytes.
const tenantPage = 2000

func (n *Node) listTenants(ctx context.Context, req *mesh.Request) (*mesh.Reply, error) {
	var a mesh.TenantListRequest
	if err := req.Args(&a); err != nil {
		return nil, err
	}
	records, err := n.kv.Tenants.List(ctx)
	from, found := slices.BinarySearchFunc(records, a.After, func(r kv.TenantRecord, after mesh.Tenant) int { return strings.Compare(string(r.Name), string(after)) })
	if found {
		from++
	}
	reply := mesh.TenantListReply{Tenants: []mesh.TenantEntry{}}
	for _, r := range records[from:] {
		if reply.More = len(reply.Tenants) == tenantPage; reply.More {
			break
		}
		e := mesh.TenantEntry{Name: r.Name, Created: r.Created}
		if !r.Removing.IsZero() {
			e.Removing = &r.Removing
		}
		reply.Tenants = append(reply.Tenants, e)
	}
	return &mesh.Reply{Args: reply}, err
}

// issueToken signs a token. It is recorded before it is handed out, so that
// none is in use that `token ls` does not show.
func (n *Node) issueToken(ctx context.Context, req *mesh.Request) (*mesh.Reply, error) {
	if n.cfg.Signer == nil {
		return nil, mesh.Errorf(mesh.CodeUnsupported, "node %s holds no key to sign tokens", n.cfg.Name)
	}
	var a mesh.TokenIssueRequest
	if err := req.Args(&a); err != nil {
		return nil, err
	}
	t, err := mesh.ParseTenant(string(a.Tenant))
	if err != nil {
		return nil, err
	}
	if a.TTLMS < 0 {
		return nil, mesh.Errorf(mesh.CodeInvalid, "token: negative lifetime")
	}
	tenant, err := n.kv.Tenants.Get(ctx, t)
	if err != nil {
		return nil, err
	}
	token, err := n.cfg.Signer.Tenant(auth.TokenSpec{
		Tenant: t, Generation: tenant.Generation, Workspace: a.Workspace, Scope: string(a.Scope),
		TTL: time.Duration(a.TTLMS) * time.Millisecond,
	})
	if err != nil {
		return nil, err
	}
	r := kv.TokenRecord{ID: token.ID, User: token.User, Tenant: t, Generation: tenant.Generation, Issued: token.Issued, Expires: token.Expires}
	if token.Bound != nil {
		r.Workspace, r.Scope = token.Bound.Workspace, mesh.Path(token.Bound.Scope)
	}
	if err := n.kv.Tenants.PutToken(ctx, r); err != nil {
		return nil, err
	}
	if err := n.stillThere(ctx, tenant); err != nil {
		if code := mesh.CodeOf(err); code == mesh.CodeNotFound || code == mesh.CodeDenied {
			err = errors.Join(err, n.kv.Tenants.ForgetToken(ctx, r))
		}
		return nil, err
	}
	return &mesh.Reply{Args: mesh.TokenIssueReply{TokenEntry: tokenEntry(r), Token: token.JWT}}, nil
}

func tokenEntry(r kv.TokenRecord) mesh.TokenEntry {
	e := mesh.TokenEntry{ID: r.ID, Tenant: r.Tenant, Workspace: r.Workspace, Scope: r.Scope, Issued: r.Issued}
	if !r.Expires.IsZero() {
		e.Expires = &r.Expires
	}
	if !r.Revoked.IsZero() {
		e.Revoked = &r.Revoked
	}
	return e
}

// revokeToken records it. A node cannot keep a token's holder out: a reply subject is the
// caller's word, so that only the servers know whose a request is.
func (n *Node) revokeToken(ctx context.Context, req *mesh.Request) (*mesh.Reply, error) {
	var a mesh.TokenRevokeRequest
	if err := req.Args(&a); err != nil {
		return nil, err
	}
	if a.ID != "" { // else it asks only which are
		if _, err := n.kv.Tenants.RevokeToken(ctx, a.ID); err != nil {
			return nil, err
		}
	}
	page, more, err := n.tokenPage(ctx, a.After, func(r *kv.TokenRecord) bool {
		return !r.Revoked.IsZero() && (r.Expires.IsZero() || time.Now().Before(r.Expires.Add(auth.RevokedLonger)))
	})
	reply := mesh.TokenRevokeReply{Revoked: []mesh.RevokedToken{}, More: more}
	for _, r := range page {
		reply.Revoked = append(reply.Revoked, mesh.RevokedToken{TokenEntry: tokenEntry(r), User: r.User})
	}
	return &mesh.Reply{Args: reply}, err
}

func (n *Node) listTokens(ctx context.Context, req *mesh.Request) (*mesh.Reply, error) {
	var a mesh.TokenListRequest
	if err := req.Args(&a); err != nil {
		return nil, err
	}
	page, more, err := n.tokenPage(ctx, a.After, func(r *kv.TokenRecord) bool { return !r.Removed })
	reply := mesh.TokenListReply{Tokens: []mesh.TokenEntry{}, More: more}
	for _, r := range page {
		reply.Tokens = append(reply.Tokens, tokenEntry(r))
	}
	return &mesh.Reply{Args: reply}, err
}

// tokenPage is a page of the tokens on record that are wanted, behind one.
func (n *Node) tokenPage(ctx context.Context, after mesh.TokenID, wanted func(*kv.TokenRecord) bool) (page []kv.TokenRecord, more bool, err error) {
	all, err := n.kv.Tenants.ListTokens(ctx)
	if err != nil {
		return nil, false, err
	}
	if after != "" {
		i := slices.IndexFunc(all, func(r kv.TokenRecord) bool { return r.ID == after })
		if i < 0 {
			return nil, false, mesh.Errorf(mesh.CodeConflict, "token %.60q was removed while tokens were listed; list them again", after)
		}
		all = all[i+1:]
	}
	size := 0
	for i := range all {
		if !wanted(&all[i]) {
			continue
		}
		if size += 6*len(all[i].Scope) + 400; size > mesh.MaxMessage {
			return page, true, nil
		}
		page = append(page, all[i])
	}
	return page, false, nil
}
