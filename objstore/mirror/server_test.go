package mirror_test

import (
	"context"
	"io"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/wsmesh/wsmesh/mesh/meshtest"
	"github.com/wsmesh/wsmesh/objstore"
	"github.com/wsmesh/wsmesh/objstore/mirror"
	"github.com/wsmesh/wsmesh/objstore/s3test"
)

// dying is a server that is killed at one of the puts: before it comes, while its bytes
// come, or once it is stored.
type dying struct {
	objstore.Remote
	kill func()
	left int // puts until then
	when int
}

const (
	beforePut = iota
	whilePut
	afterPut
)

func (d *dying) Put(ctx context.Context, name string, body io.Reader, size int64, how objstore.PutOptions) (string, error) {
	d.left--
	if d.left != 0 {
		return d.Remote.Put(ctx, name, body, size, how)
	}
	switch d.when {
	case beforePut:
		d.kill()
	case whilePut:
		body = &killing{Reader: body, kill: d.kill}
	}
	version, err := d.Remote.Put(ctx, name, body, size, how)
	if d.when == afterPut {
		d.kill()
	}
	return version, err
}

type killing struct {
	io.Reader
	kill func()
	once sync.Once
}

func (k *killing) Read(b []byte) (int, error) {
	k.once.Do(k.kill)
	return k.Reader.Read(b[:min(len(b), 1)])
}

// TestTheServerDies kills a real S3 server at each put of a copy and its readable files:
// what the head names is whole, and with the server back the copy is made. The long form
// meets each put.
func TestTheServerDies(t *testing.T) {
	s3test.Setenv(t)
	server := s3test.Start(t)
	r, from := on(t, server.URL()), source(t)
	ctx := t.Context()
	copied := func(r objstore.Remote, h mirror.Head) error {
		m := newMirror(t, r, "m")
		_, err := m.Commit(ctx, tenant, workspace, h, from)
		if err == nil {
			err = m.CopyFiles(ctx, tenant, workspace, h.Sequence, from)
		}
		return err
	}
	n, first, step := 0, 1+rand.IntN(3), 3 // the client tries again for seconds each time
	if meshtest.Long() {
		first, step = 1, 1
	}
	for _, when := range []int{beforePut, whilePut, afterPut} {
		for put, more := first, true; more; put += step {
			n++
			h := mirror.Head{Workspace: "id", Epoch: 1, Sequence: uint64(n), Ref: commit(t, from, n)}
			d := &dying{Remote: r, kill: server.Kill, left: put, when: when}
			err := copied(d, h)
			if more = d.left <= 0; more {
				server.Start(t)
				whole(t, r)
			}
			if when != afterPut && more {
				require.Error(t, err)
			}
			require.NoError(t, copied(r, h))
			require.Equal(t, h.Ref, whole(t, r).Ref)
		}
	}
	t.Log(n, "copies, of puts", first, "and each", step)
}
