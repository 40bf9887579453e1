package bench

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os/exec"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/wsmesh/wsmesh/client"
	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/mesh/auth"
)

const (
	payload = 4 << 10 // bytes of one read or write
	files   = 1000    // distinct files, so that no cache of one file answers
	// abandoned is the age at which a stream that another run left is removed;
	// no run takes as long.
	abandoned = 5 * time.Minute
)

// command is what both sides of exec run.
const command = "/bin/true"

func execPair(ws *client.Workspace) *pair {
	return &pair{
		floorName: "os/exec",
		ours:      func(ctx context.Context, _ int) error { return ws.Command(ctx, command).Run() },
		floor:     func(ctx context.Context, _ int) error { return exec.CommandContext(ctx, command).Run() },
		close:     func() {},
	}
}

func fileName(i int) string { return fmt.Sprintf("f%04d", i%files) }

func readPair(ctx context.Context, cfg Config, ws *client.Workspace) (*pair, error) {
	contents := make([][]byte, files)
	for i := range contents {
		contents[i] = random()
	}
	if err := putFiles(ctx, ws, contents); err != nil {
		return nil, err
	}
	subject := "bench.echo." + mesh.NewID()
	sub, err := cfg.Echo.Subscribe(subject, func(m *nats.Msg) { m.Respond(m.Data) }) //nolint:errcheck // the request then times out
	if err == nil {
		err = cfg.Echo.FlushTimeout(5 * time.Second)
	}
	if err != nil {
		return nil, err
	}
	return &pair{
		floorName: "request",
		ours: func(ctx context.Context, i int) error {
			b, err := ws.ReadFile(ctx, fileName(i))
			return same(b, contents[i%files], err)
		},
		floor: func(_ context.Context, i int) error {
			m, err := cfg.Floor.Request(subject, contents[i%files], 10*time.Second)
			if err != nil {
				return err
			}
			return same(m.Data, contents[i%files], nil)
		},
		close: func() { sub.Unsubscribe() }, //nolint:errcheck // gone with the connection otherwise
	}, nil
}

// same keeps a fast wrong answer from being measured.
func same(got, want []byte, err error) error {
	if err == nil && !bytes.Equal(got, want) {
		return mesh.Errorf(mesh.CodeInternal, "bench: the answer has other bytes than were written")
	}
	return err
}

// writePair writes files that a journal has. Several callers write to one workspace, and have a journal each for the floor:
// publishes on one cannot overlap.
func writePair(ctx context.Context, cfg Config, ws *client.Workspace, replicas, callers int) (*pair, error) {
	js, err := jetstream.New(cfg.Floor)
	if err != nil {
		return nil, err
	}
	stream, subject, err := journalLike(ctx, js, replicas)
	if err != nil {
		return nil, err
	}
	content := random()
	last := make([]uint64, callers)
	return &pair{
		floorName: "fenced publish", callers: callers,
		ours: func(ctx context.Context, i int) error {
			return ws.WriteFile(ctx, fileName(i), content, 0o644)
		},
		floor: func(ctx context.Context, i int) error {
			caller := i / turnOps % callers
			m := nats.NewMsg(fmt.Sprintf("%s-%d", subject, caller))
			m.Data = content
			seq, err := mesh.Publish(ctx, js, m, last[caller])
			last[caller] = seq
			return err
		},
		close: func() { dropStream(ctx, js, stream) },
	}, nil
}

// journalLike makes a stream with the settings of a journal, and returns it with
// a subject of a shape like a journal's.
func journalLike(ctx context.Context, js jetstream.JetStream, replicas int) (stream, subject string, err error) {
	cfg := mesh.Streams(mesh.Storage{Shards: 1, Replicas: replicas})[0]
	prefix := "bench." + mesh.NewID()
	cfg.Subjects = []string{prefix + ".*.*"}
	cfg.RePublish = &jetstream.RePublish{
		Source:      cfg.Subjects[0],
		Destination: "bench.seen.{{wildcard(1)}}.{{wildcard(2)}}",
		HeadersOnly: true,
	}
	stream, err = createStream(ctx, js, cfg)
	return stream, prefix + ".tenant.workspace", err
}

// createStream makes a stream under one of the operator's names.
func createStream(ctx context.Context, js jetstream.JetStream, cfg jetstream.StreamConfig) (name string, err error) {
	for i := range auth.BenchStreams {
		cfg.Name = auth.BenchStream(i)
		_, err = js.CreateStream(ctx, cfg)
		if errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) && leftOver(ctx, js, cfg.Name) {
			_, err = js.CreateStream(ctx, cfg)
		}
		if err == nil {
			return cfg.Name, nil
		}
		if !errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
			return "", fmt.Errorf("bench: make stream %s: %w", cfg.Name, err)
		}
	}
	return "", mesh.Errorf(mesh.CodeBusy, "bench: %d runs are under way; try again in a minute", auth.BenchStreams)
}

// dropStream removes a stream; what fails is left to the next run.
func dropStream(ctx context.Context, js jetstream.JetStream, name string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	js.DeleteStream(ctx, name) //nolint:errcheck // see above
}

// leftOver removes a stream that a run of long ago left, and reports whether it
// did.
func leftOver(ctx context.Context, js jetstream.JetStream, name string) bool {
	s, err := js.Stream(ctx, name)
	return err == nil && time.Since(s.CachedInfo().Created) > abandoned && js.DeleteStream(ctx, name) == nil
}

// settings asks the operator's side for what the node works with.
func settings(ctx context.Context, conn *nats.Conn, info mesh.InfoReply) (Setting, error) {
	s := Setting{Isolation: info.Isolation, Durability: "sync"}
	now, err := status(ctx, conn)
	for _, n := range now.Nodes {
		if n.Node == info.Node {
			s.Sync, s.Replicas = n.Sync, n.Replicas
		}
	}
	return s, err
}

// status asks for the mesh's.
func status(ctx context.Context, conn *nats.Conn) (now mesh.StatusReply, err error) {
	m, err := mesh.NewRequest(mesh.AdminSubject(mesh.VerbAdminStatus), "", "", struct{}{}, nil)
	if err != nil {
		return now, err
	}
	answer, err := conn.RequestMsgWithContext(ctx, m)
	if err == nil {
		_, err = mesh.DecodeReply(answer, &now)
	}
	return now, err
}

func random() []byte {
	b := make([]byte, payload)
	rand.Read(b) // never fails: crypto/rand crashes the program instead
	return b
}
