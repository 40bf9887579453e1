package objstore

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"iter"
	"strings"
	"time"

	"github.com/wsmesh/wsmesh/mesh"
)

// Remote keeps objects by their names outside of the mesh: the second home of
// everything, see package mirror. Its drivers are s3bucket and dirbucket. All
// methods may be called concurrently, from several processes too. RunRemote of package
// buckettest is what every driver must pass.
//
// A name is 1 to MaxObjectName bytes of UTF-8 between slashes. One that ends with a
// slash is an empty object that says that a directory is there. A name that is a
// directory of another one is CodeConflict with some drivers.
//
// Errors carry the codes of package mesh: CodeNotFound for an object that is not
// there, CodeConflict for a condition that does not hold, CodeDenied and CodeInvalid
// where the operator has to change something, CodeQuota when there is no room, and
// CodeUnavailable when it cannot be reached now, or it is unknown whether a Put or a
// Delete was done (do it again).
type Remote interface {
	// Get returns up to n bytes as Bucket.Get does, and the object. Its Version is
	// there when all of the object was read.
	Get(ctx context.Context, name string, offset int64, n int) ([]byte, Object, error)

	// Stat returns an object without its bytes, and perhaps without its Version.
	Stat(ctx context.Context, name string) (Object, error)

	// Put stores an object of size bytes in place of what has the name. When it
	// returns nil the object is durable; when it fails no one ever finds a part of
	// it. Its Version is what the object has now.
	Put(ctx context.Context, name string, body io.Reader, size int64, how PutOptions) (version string, err error)

	// Delete removes an object; one that does not exist is no error.
	Delete(ctx context.Context, name string) error

	// List yields the objects whose names begin with prefix, with the time when they
	// were stored and without their Meta and Version. Of two in one directory the one
	// whose name is lower comes first. It ends with the first error.
	//
	// With the delimiter "/" and not "", all that has a slash behind the prefix is
	// yielded as one Object for each name before that slash, which it ends with and
	// which is all that is said: the directories, without what is in them.
	List(ctx context.Context, prefix, delimiter string) iter.Seq2[Object, error]
}

// MaxObjectName is the most bytes of an object's name with all that stands before it,
// as S3 has it.
const MaxObjectName = 1024

// Object is what is known of an object of a Remote.
type Object struct {
	Name string
	Size int64
	// Modified is when it was stored, by the clock of where it is; List alone says it.
	Modified time.Time
	Version  string            // changes with its bytes; for PutOptions.If
	Meta     map[string]string // names in lower case
}

// PutOptions say how an object is stored.
type PutOptions struct {
	Meta map[string]string // ASCII, 2 KiB at most
	If   *string           // the Version that is there now, "" for no object; nil: whatever there is
	Sum  ID                // SHA-256 of the bytes where the caller knows it: a driver may have the server check it; zero: unknown
}

// MaxSmall bounds the objects that GetSmall reads.
const MaxSmall = 8 << 20

// GetSmall returns a whole object of at most MaxSmall bytes, with its Version.
func GetSmall(ctx context.Context, r Remote, name string) ([]byte, string, error) {
	data, o, err := r.Get(ctx, name, 0, MaxSmall+1)
	if err == nil && len(data) > MaxSmall {
		err = mesh.Errorf(mesh.CodeTooLarge, "%s has more than %d bytes", name, MaxSmall)
	}
	return data, o.Version, err
}

// PutSmall stores bytes if version is what is there now, "" for nothing, and
// CodeConflict otherwise. A conflict with one's own bytes, which an earlier try has
// stored, is success.
func PutSmall(ctx context.Context, r Remote, name string, data []byte, version string) error {
	_, err := r.Put(ctx, name, bytes.NewReader(data), int64(len(data)), PutOptions{If: &version})
	if mesh.CodeOf(err) == mesh.CodeConflict {
		if now, _, getErr := GetSmall(ctx, r, name); getErr == nil && bytes.Equal(now, data) {
			return nil
		}
	}
	return err
}

// RemotePacks is the Bucket of the packs below one name of a Remote. An object lies
// at <below><first two digits>/<name>.
type RemotePacks struct {
	r     Remote
	below string
}

var _ Bucket = (*RemotePacks)(nil)

// PacksIn returns the bucket below a name, which is "" or ends with a slash.
func PacksIn(r Remote, below string) *RemotePacks { return &RemotePacks{r: r, below: below} }

func (b *RemotePacks) name(id ID) string {
	name := id.String()
	return b.below + name[:2] + "/" + name
}

// Put implements Bucket.
func (b *RemotePacks) Put(ctx context.Context, id ID, data []byte) error {
	_, err := b.r.Put(ctx, b.name(id), bytes.NewReader(data), int64(len(data)), PutOptions{Sum: id})
	return err
}

// Has reports whether an object is there.
func (b *RemotePacks) Has(ctx context.Context, id ID) (bool, error) {
	_, err := b.r.Stat(ctx, b.name(id))
	if mesh.CodeOf(err) == mesh.CodeNotFound {
		return false, nil
	}
	return err == nil, err
}

// Get implements Bucket.
func (b *RemotePacks) Get(ctx context.Context, id ID, offset int64, n int) ([]byte, error) {
	data, _, err := b.r.Get(ctx, b.name(id), offset, n)
	return data, err
}

// Delete implements Bucket.
func (b *RemotePacks) Delete(ctx context.Context, id ID) error {
	return b.r.Delete(ctx, b.name(id))
}

// List implements Bucket.
func (b *RemotePacks) List(ctx context.Context) iter.Seq2[ID, error] {
	return func(yield func(ID, error) bool) {
		for o, err := range b.r.List(ctx, b.below, "") {
			if err != nil {
				yield(ID{}, fmt.Errorf("list packs: %w", err))
				return
			}
			id, notOurs := ParseID(o.Name[strings.LastIndexByte(o.Name, '/')+1:])
			if notOurs == nil && o.Name == b.name(id) && !yield(id, nil) {
				return
			}
		}
	}
}

// Below is a Remote of the objects whose names begin with prefix, which it does not
// show.
func Below(r Remote, prefix string) Remote {
	if prefix == "" {
		return r
	}
	return &below{r, prefix}
}

type below struct {
	Remote
	prefix string
}

func (b *below) Get(ctx context.Context, name string, offset int64, n int) ([]byte, Object, error) {
	data, o, err := b.Remote.Get(ctx, b.prefix+name, offset, n)
	o.Name = name
	return data, o, err
}

func (b *below) Stat(ctx context.Context, name string) (Object, error) {
	o, err := b.Remote.Stat(ctx, b.prefix+name)
	o.Name = name
	return o, err
}

func (b *below) Put(ctx context.Context, name string, body io.Reader, size int64, how PutOptions) (string, error) {
	return b.Remote.Put(ctx, b.prefix+name, body, size, how)
}

func (b *below) Delete(ctx context.Context, name string) error {
	return b.Remote.Delete(ctx, b.prefix+name)
}

func (b *below) List(ctx context.Context, prefix, delimiter string) iter.Seq2[Object, error] {
	return func(yield func(Object, error) bool) {
		for o, err := range b.Remote.List(ctx, b.prefix+prefix, delimiter) {
			o.Name = strings.TrimPrefix(o.Name, b.prefix)
			if !yield(o, err) {
				return
			}
		}
	}
}
