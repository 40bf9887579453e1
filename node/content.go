package node

import (
	"context"
	"fmt"

	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/objstore"
	"github.com/wsmesh/wsmesh/objstore/jsbucket"
)

// storeKey says where a tenant's packs are.
type storeKey struct {
	tenant mesh.Tenant
	shard  int
}

// maxStores bounds the stores that a node keeps: each caches up to 32 MiB of packs
// that were read.
const maxStores = 16

// content returns the store of the workspace's content.
func (w *workspace) content(ctx context.Context) (*objstore.Store, error) {
	return w.node.content(ctx, w.tenant, w.record.PackShard())
}

// content returns the store of the content of a tenant in a shard.
func (n *Node) content(ctx context.Context, t mesh.Tenant, shard int) (*objstore.Store, error) {
	k := storeKey{t, shard}
	if s, ok := n.stores.Get(k); ok {
		return s, nil
	}
	bucket, err := n.bucket(ctx, k)
	if err != nil {
		return nil, err
	}
	// Most of the age is for the record that names what a writer has stored.
	s, err := objstore.New(bucket, objstore.Config{WriterLife: min(objstore.MaxWriterLife, n.cfg.CollectAge/4)})
	if err == nil {
		n.stores.Add(k, s)
	}
	return s, err
}

func (n *Node) bucket(ctx context.Context, k storeKey) (*jsbucket.Bucket, error) {
	bucket, err := jsbucket.Open(ctx, n.js, k.shard, k.tenant)
	if err != nil {
		return nil, fmt.Errorf("open the packs of tenant %s: %w", k.tenant, err)
	}
	return bucket, nil
}
