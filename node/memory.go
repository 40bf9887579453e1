package node

import (
	"context"

	"github.com/wsmesh/wsmesh/kv"
	"github.com/wsmesh/wsmesh/mesh"
)

// answerMemory answers what any node can about a tenant's memory. A token that
// is bound to a workspace has none: memory is the tenant's.
func (n *Node) answerMemory(ctx context.Context, a mesh.APIAddress, req *mesh.Request) (*mesh.Reply, error) {
	if req.Bound != nil {
		return nil, mesh.Errorf(mesh.CodeDenied, "a token that is bound to a workspace does not reach the tenant's memory")
	}
	switch a.Verb {
	case mesh.VerbMemoryGet:
		return n.memoryGet(ctx, a.Tenant, req)
	case mesh.VerbMemoryCommit:
		return n.memoryCommit(ctx, a.Tenant, req)
	case mesh.VerbMemoryList:
		return n.memoryList(ctx, a.Tenant, req)
	case mesh.VerbMemoryWatch:
		return n.memoryWatch(ctx, a.Tenant, req)
	}
	return nil, mesh.Errorf(mesh.CodeUnsupported, "unknown request %.40s %.40s", a.Service, a.Verb)
}

func (n *Node) memoryGet(ctx context.Context, t mesh.Tenant, req *mesh.Request) (*mesh.Reply, error) {
	var a mesh.MemoryGetRequest
	err := req.Args(&a)
	if err == nil {
		a.Namespace, err = mesh.ParseNamespace(string(a.Namespace))
	}
	if err == nil {
		err = mesh.CheckKey(a.Key)
	}
	if err != nil {
		return nil, err
	}
	reply, value, err := n.memory.Get(ctx, t, a.Namespace, a.Key, a.Least)
	if err != nil {
		return nil, err
	}
	if value == nil {
		value = []byte{}
	}
	return &mesh.Reply{Args: reply, Content: value}, nil
}

func (n *Node) memoryCommit(ctx context.Context, t mesh.Tenant, req *mesh.Request) (*mesh.Reply, error) {
	c := &kv.MemoryChange{Tenant: t, ID: req.ID}
	err := req.Args(&c.MemoryCommitRequest)
	if err == nil {
		c.Namespace, err = mesh.ParseNamespace(string(c.Namespace))
	}
	if err == nil {
		c.Values, err = memoryValues(c.Ops, req.Content())
	}
	if err == nil && req.ID == "" {
		err = mesh.Errorf(mesh.CodeInvalid, "a commit needs a %s", mesh.HeaderID)
	}
	if err != nil {
		return nil, err
	}
	reply, err := n.memory.Commit(ctx, c)
	if err != nil {
		return nil, err
	}
	return &mesh.Reply{Args: reply}, nil
}

// memoryValues checks the ops of a commit and cuts its content into their values.
func memoryValues(ops []mesh.MemoryOp, content []byte) ([][]byte, error) {
	if len(ops) == 0 || len(ops) > mesh.MaxCommit {
		return nil, mesh.Errorf(mesh.CodeInvalid, "a commit has 1 to %d changes, not %d", mesh.MaxCommit, len(ops))
	}
	seen := make(map[string]bool, len(ops))
	values := make([][]byte, len(ops))
	for i, op := range ops {
		if err := mesh.CheckKey(op.Key); err != nil {
			return nil, err
		}
		switch {
		case seen[op.Key]:
			return nil, mesh.Errorf(mesh.CodeInvalid, "a commit changes key %.80q twice", op.Key)
		case op.Size < 0 || op.Size > len(content) || op.Delete && op.Size > 0:
			return nil, mesh.Errorf(mesh.CodeInvalid, "key %.80q: a value of %d bytes is not in the content", op.Key, op.Size)
		case op.TTLMS != 0 && (op.Delete || op.TTLMS < mesh.MinTTL.Milliseconds() || op.TTLMS > mesh.MaxTTL.Milliseconds()):
			return nil, mesh.Errorf(mesh.CodeInvalid, "key %.80q: a value lives %s to %s, or without an end", op.Key, mesh.MinTTL, mesh.MaxTTL)
		}
		seen[op.Key] = true
		values[i], content = content[:op.Size], content[op.Size:]
	}
	if len(content) > 0 {
		return nil, mesh.Errorf(mesh.CodeInvalid, "%d bytes of the content belong to no key", len(content))
	}
	return values, nil
}

func (n *Node) memoryList(ctx context.Context, t mesh.Tenant, req *mesh.Request) (*mesh.Reply, error) {
	var a mesh.MemoryListRequest
	err := req.Args(&a)
	if err == nil {
		a.Namespace, err = mesh.ParseNamespace(string(a.Namespace))
	}
	if err != nil {
		return nil, err
	}
	reply, err := n.memory.List(ctx, t, a)
	return &mesh.Reply{Args: reply}, err
}

func (n *Node) memoryWatch(ctx context.Context, t mesh.Tenant, req *mesh.Request) (*mesh.Reply, error) {
	var a mesh.MemoryWatchRequest
	err := req.Args(&a)
	if err == nil {
		a.Namespace, err = mesh.ParseNamespace(string(a.Namespace))
	}
	if err != nil {
		return nil, err
	}
	reply, err := n.memory.Watch(ctx, t, a)
	return &mesh.Reply{Args: reply}, err
}
