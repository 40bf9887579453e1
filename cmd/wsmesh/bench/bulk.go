package bench

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"golang.org/x/sync/errgroup"

	"github.com/wsmesh/wsmesh/client"
	"github.com/wsmesh/wsmesh/mesh"
)

const (
	bulk      = 1 << 20 // bytes of one upload or download
	bulkFiles = 32      // distinct files and contents
	// bulkN is fewer than DefaultN: each upload stays on the disk for a while.
	bulkN = 1000
	// bulkParts is how many messages one op takes, and bulkInFlight how many of
	// them are unanswered at a time: as Workspace.Put and Get have it.
	bulkParts    = bulk / mesh.MaxMessage
	bulkInFlight = 4
)

// stream is the floor of upload and download: the same bytes over plain NATS in
// messages of the same size, each of them acknowledged.
type stream struct {
	conn    *nats.Conn
	subject string
	sub     *nats.Subscription
}

// newStream answers requests on SUBJECT.CONTENT.PART with answer.
func newStream(cfg Config, answer func(m *nats.Msg, content, part int)) (*stream, error) {
	s := &stream{conn: cfg.Floor, subject: "bench.bulk." + mesh.NewID()}
	var err error
	s.sub, err = cfg.Echo.Subscribe(s.subject+".*.*", func(m *nats.Msg) {
		words := strings.Split(m.Subject, ".")
		content, _ := strconv.Atoi(words[len(words)-2]) // we made it
		part, _ := strconv.Atoi(words[len(words)-1])
		answer(m, content, part)
	})
	if err == nil {
		err = cfg.Echo.FlushTimeout(5 * time.Second)
	}
	return s, err
}

// each does the requests of one op.
func (s *stream) each(ctx context.Context, content int, ask func(subject string, part int) error) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(bulkInFlight)
	for part := range bulkParts {
		g.Go(func() error {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return ask(fmt.Sprintf("%s.%d.%d", s.subject, content, part), part)
		})
	}
	return g.Wait()
}

func (s *stream) close() { s.sub.Unsubscribe() } //nolint:errcheck // gone with the connection otherwise

func partOf(content []byte, part int) []byte {
	return content[part*mesh.MaxMessage : (part+1)*mesh.MaxMessage]
}

// uploadPair writes a content to a file that has another one, every time. What
// arrived is looked at when all is measured.
func uploadPair(cfg Config, ws *client.Workspace) (*pair, error) {
	contents := bulkContents()
	// which of them the i-th op writes into file i%bulkFiles.
	which := func(i int) int { return (i + i/bulkFiles) % bulkFiles }
	var mu sync.Mutex
	arrived := map[[2]int][]byte{}
	s, err := newStream(cfg, func(m *nats.Msg, content, part int) {
		mu.Lock()
		arrived[[2]int{content, part}] = m.Data
		mu.Unlock()
		m.Respond(nil) //nolint:errcheck // the request then times out
	})
	if err != nil {
		return nil, err
	}
	var written [bulkFiles]int // the content that each file has, counted from 1
	return &pair{
		floorName: "NATS stream",
		ours: func(ctx context.Context, i int) error {
			written[i%bulkFiles] = which(i) + 1
			return ws.Put(ctx, fileName(i%bulkFiles), bytes.NewReader(contents[which(i)]), 0o644)
		},
		floor: func(ctx context.Context, i int) error {
			return s.each(ctx, which(i), func(subject string, part int) error {
				_, err := s.conn.Request(subject, partOf(contents[which(i)], part), 10*time.Second)
				return err
			})
		},
		check: func(ctx context.Context) error {
			mu.Lock()
			defer mu.Unlock()
			for key, got := range arrived {
				if err := same(got, partOf(contents[key[0]], key[1]), nil); err != nil {
					return err
				}
			}
			for file, content := range written {
				if content == 0 {
					continue // fewer ops than files
				}
				got, err := ws.ReadFile(ctx, fileName(file))
				if err := same(got, contents[content-1], err); err != nil {
					return err
				}
			}
			return nil
		},
		close: s.close,
	}, nil
}

func downloadPair(ctx context.Context, cfg Config, ws *client.Workspace) (*pair, error) {
	contents := bulkContents()
	if err := putFiles(ctx, ws, contents); err != nil {
		return nil, err
	}
	s, err := newStream(cfg, func(m *nats.Msg, content, part int) {
		m.Respond(partOf(contents[content], part)) //nolint:errcheck // the request then times out
	})
	if err != nil {
		return nil, err
	}
	return &pair{
		floorName: "NATS stream",
		ours: func(ctx context.Context, i int) error {
			w := &matching{want: contents[i%bulkFiles]}
			if err := ws.Get(ctx, fileName(i%bulkFiles), w); err != nil {
				return err
			}
			return same(nil, w.want, nil) // nothing may be missing
		},
		floor: func(ctx context.Context, i int) error {
			return s.each(ctx, i%bulkFiles, func(subject string, part int) error {
				m, err := s.conn.Request(subject, nil, 10*time.Second)
				if err != nil {
					return err
				}
				return same(m.Data, partOf(contents[i%bulkFiles], part), nil)
			})
		},
		close: s.close,
	}, nil
}

// matching takes the bytes that are wanted, and no others.
type matching struct{ want []byte }

func (m *matching) Write(b []byte) (int, error) {
	if len(b) > len(m.want) {
		return 0, same(b, m.want, nil)
	}
	if err := same(b, m.want[:len(b)], nil); err != nil {
		return 0, err
	}
	m.want = m.want[len(b):]
	return len(b), nil
}

func bulkContents() [][]byte {
	all := make([][]byte, bulkFiles)
	for i := range all {
		all[i] = make([]byte, bulk)
		rand.Read(all[i]) // never fails: crypto/rand crashes the program instead
	}
	return all
}

// putFiles makes a file of each content.
func putFiles(ctx context.Context, ws *client.Workspace, contents [][]byte) error {
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	for i, content := range contents {
		err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: fileName(i), Mode: 0o644, Size: int64(len(content))})
		if err == nil {
			_, err = w.Write(content)
		}
		if err != nil {
			return err
		}
	}
	if err := w.Close(); err != nil {
		return err
	}
	return ws.PutDir(ctx, ".", &archive)
}
