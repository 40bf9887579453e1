package chaos

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"strings"
	"sync"

	"github.com/wsmesh/wsmesh/client"
)

// Workload is clients that change and read the files of one workspace, each its
// own files and all of them some shared ones.
type Workload struct {
	Workspace *client.Workspace
	Dir       string // of this workload's files; every workload has its own
	Seed      uint64
	Writers   int
	Commands  bool // a part of the writes is done by commands
}

const (
	ownFiles    = 12 // of each writer
	sharedFiles = 4  // of all together
	// largeFile needs several messages, and its content a pack of its own.
	largeFile = 1200 << 10
)

// Run lets the writers work until ctx ends, and writes their calls down.
func (w *Workload) Run(ctx context.Context, h *History) {
	var all sync.WaitGroup
	for i := range w.Writers {
		all.Go(func() {
			r := &writer{Workload: w, id: i, history: h, rand: rand.New(rand.NewPCG(w.Seed, uint64(i))), holds: map[string]string{}}
			for ctx.Err() == nil {
				r.step(ctx)
			}
		})
	}
	all.Wait()
}

// writer is one client. It knows what its own files hold, as far as that is
// known: nobody else changes them.
type writer struct {
	*Workload
	id      int
	history *History
	rand    *rand.Rand
	holds   map[string]string
	written int
}

func (w *writer) path() string {
	if w.rand.IntN(8) == 0 {
		return fmt.Sprintf("%s/shared/f%d", w.Dir, w.rand.IntN(sharedFiles))
	}
	return fmt.Sprintf("%s/w%d/d%d/f%d", w.Dir, w.id, w.rand.IntN(3), w.rand.IntN(ownFiles))
}

// step makes one call. A call that has been sent is waited for although the
// workload ends: that its client gave up says nothing of it.
func (w *writer) step(ctx context.Context) {
	ctx = context.WithoutCancel(ctx)
	p := w.path()
	switch n := w.rand.IntN(100); {
	case n < 20:
		w.read(ctx, p)
	case n < 30:
		w.remove(ctx, p)
	case n < 40:
		w.rename(ctx, p)
	case n < 43:
		w.write(ctx, p, largeFile)
	case n < 46 && w.Commands:
		w.command(ctx, p)
	default:
		w.write(ctx, p, 200+w.rand.IntN(3000))
	}
}

func (w *writer) read(ctx context.Context, p string) {
	w.history.Do(Call{Client: w.id, Kind: Read, Path: p}, func() (string, error) { return w.find(ctx, p) })
}

// find is the value of a file.
func (w *Workload) find(ctx context.Context, p string) (string, error) {
	content, err := w.Workspace.ReadFile(ctx, p)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	return valueOf(content), err
}

func (w *writer) remove(ctx context.Context, p string) {
	outcome := w.history.Do(Call{Client: w.id, Kind: Remove, Path: p}, func() (string, error) {
		return "", w.Workspace.Remove(ctx, p)
	})
	w.learn(outcome, p, "")
}

// rename moves a file whose value is known to a place of its own.
func (w *writer) rename(ctx context.Context, p string) {
	value, to := w.holds[p], w.path()
	if _, own := w.holds[to]; value == "" || to == p || !own {
		return
	}
	outcome := w.history.Do(Call{Client: w.id, Kind: Rename, Path: p, To: to, Value: value}, func() (string, error) {
		return "", w.Workspace.Rename(ctx, p, to)
	})
	w.learn(outcome, to, value)
	w.learn(outcome, p, "")
}

func (w *writer) write(ctx context.Context, p string, size int) {
	value, content := w.next(size)
	outcome := w.history.Do(Call{Client: w.id, Kind: Write, Path: p, Value: value}, func() (string, error) {
		return "", w.Workspace.WriteFile(ctx, p, content, 0o644)
	})
	w.learn(outcome, p, value)
}

// command writes as agents mostly do: what it has written is there when its end is
// reported. What a killed one leaves unfinished is not in the workload's directory.
func (w *writer) command(ctx context.Context, p string) {
	value, content := w.next(300)
	outcome := w.history.Do(Call{Client: w.id, Kind: Write, Path: p, Value: value}, func() (string, error) {
		cmd := w.Workspace.Command(ctx, "sh", "-c", `mkdir -p .parts "${1%/*}" && cat >".parts/$2" && mv ".parts/$2" "$1"`, "sh", p, strings.ReplaceAll(value, "/", "-"))
		cmd.Stdin = bytes.NewReader(content)
		return "", cmd.Run()
	})
	w.learn(outcome, p, value)
}

// learn keeps what is known of an own file.
func (w *writer) learn(outcome Outcome, p, value string) {
	if own := fmt.Sprintf("%s/w%d/", w.Dir, w.id); len(p) <= len(own) || p[:len(own)] != own {
		return
	}
	switch outcome {
	case Done:
		w.holds[p] = value
	case Unknown:
		delete(w.holds, p)
	}
}

// next makes a value that nobody wrote before, and content that holds it.
func (w *writer) next(size int) (value string, content []byte) {
	w.written++
	value = fmt.Sprintf("%s/w%d/%d", w.Dir, w.id, w.written)
	content = fmt.Appendf(nil, "%s\n", value)
	var seed [32]byte
	binary.LittleEndian.PutUint64(seed[:], w.rand.Uint64())
	noise := make([]byte, max(0, size-len(content)))
	_, _ = rand.NewChaCha8(seed).Read(noise)
	return value, seal(append(content, noise...))
}

// seal ends content with its hash, so that a part of it, or of two, shows.
func seal(content []byte) []byte {
	sum := sha256.Sum256(content)
	return append(content, hex.EncodeToString(sum[:])...)
}

// valueOf reads the value that sealed content holds.
func valueOf(content []byte) string {
	const hash = 2 * sha256.Size
	if n := len(content) - hash; n > 0 && bytes.Equal(seal(bytes.Clone(content[:n])), content) {
		if value, _, ok := bytes.Cut(content, []byte("\n")); ok {
			return string(value)
		}
	}
	return fmt.Sprintf("torn: %d bytes, %.40q", len(content), content)
}

// Final is every file below the workload's directory with its value.
func (w *Workload) Final(ctx context.Context) (map[string]string, error) {
	final := map[string]string{}
	fsys := w.Workspace.FS(ctx)
	err := fs.WalkDir(fsys, w.Dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		final[p], err = w.find(ctx, p)
		return err
	})
	return final, err
}
