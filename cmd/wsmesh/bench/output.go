package bench

import (
	"context"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/wsmesh/wsmesh/client"
	"github.com/wsmesh/wsmesh/mesh"
)

const (
	// outputBytes are one operation of exec_output, in frames of outputFrame on both
	// sides.
	outputBytes = 1 << 20
	outputFrame = 64 << 10
	// outputWait is how long one MiB may take.
	outputWait = time.Minute
)

// outputPair has a command write turnOps MiB, of which each arrives here in a time,
// against the same bytes published to a stream like an exec log, with as many frames
// on their way as ours, and heard from there.
func outputPair(ctx context.Context, cfg Config, ws *client.Workspace, replicas int) (*pair, error) {
	floor, err := newRawOutput(ctx, cfg, replicas)
	if err != nil {
		return nil, err
	}
	var w *writer
	return &pair{
		floorName: "NATS stream", callers: 1, turns: true,
		ours: func(ctx context.Context, i int) error {
			if i == 0 {
				var err error
				if w, err = startWriter(ctx, ws); err != nil {
					return err
				}
			}
			return w.next(ctx, i == turnOps-1)
		},
		floor: floor.next,
		close: floor.close,
	}, nil
}

// writer is a command that writes, and counts what arrives of it.
type writer struct {
	arrived int
	mib     chan struct{}
	over    chan error
}

func startWriter(ctx context.Context, ws *client.Workspace) (*writer, error) {
	w := &writer{mib: make(chan struct{}, turnOps), over: make(chan error, 1)}
	cmd := ws.Command(ctx, "head", "-c", strconv.Itoa(turnOps*outputBytes), "/dev/zero")
	cmd.Stdout = w
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	go func() { w.over <- cmd.Wait() }() // next waits for it, or ctx ends it
	return w, nil
}

// Write implements io.Writer.
func (w *writer) Write(p []byte) (int, error) {
	before := w.arrived / outputBytes
	if w.arrived += len(p); w.arrived > turnOps*outputBytes {
		return 0, mesh.Errorf(mesh.CodeInternal, "bench: more output than was written")
	}
	for range w.arrived/outputBytes - before {
		w.mib <- struct{}{}
	}
	return len(p), nil
}

// next waits for one MiB, and after the last one for the end.
func (w *writer) next(ctx context.Context, last bool) error {
	select {
	case <-w.mib:
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(outputWait):
		return mesh.Errorf(mesh.CodeInternal, "bench: output is missing")
	}
	if last {
		return <-w.over
	}
	return nil
}

// rawOutput is the floor: the same bytes, stored and republished as an exec log is.
type rawOutput struct {
	js      jetstream.JetStream
	subject string
	seen    *nats.Subscription
	frames  chan *nats.Msg
	over    chan error
	close   func()
}

func newRawOutput(ctx context.Context, cfg Config, replicas int) (*rawOutput, error) {
	js, err := jetstream.New(cfg.Floor)
	if err != nil {
		return nil, err
	}
	settings := mesh.Streams(mesh.Storage{Shards: 1, Replicas: replicas})[1]
	id := mesh.NewID()
	settings.Subjects = []string{"bench.out." + id}
	settings.RePublish = &jetstream.RePublish{Source: settings.Subjects[0], Destination: "bench.seen." + id}
	r := &rawOutput{js: js, subject: settings.Subjects[0], frames: make(chan *nats.Msg, turnOps*outputBytes/outputFrame), over: make(chan error, 1)}
	if r.seen, err = cfg.Echo.ChanSubscribe(settings.RePublish.Destination, r.frames); err == nil {
		err = cfg.Echo.FlushTimeout(5 * time.Second)
	}
	if err != nil {
		return nil, err
	}
	stream, err := createStream(ctx, js, settings)
	if err != nil {
		r.seen.Unsubscribe() //nolint:errcheck // gone with the connection otherwise
		return nil, err
	}
	r.close = func() {
		r.seen.Unsubscribe() //nolint:errcheck // gone with the connection otherwise
		dropStream(ctx, js, stream)
	}
	return r, nil
}

// publish is what a node does with as many bytes of output.
func (r *rawOutput) publish(ctx context.Context) error {
	content := make([]byte, outputFrame)
	var acks []jetstream.PubAckFuture
	settle := func() error {
		ack := acks[0]
		acks = acks[1:]
		select {
		case <-ack.Ok():
			return nil
		case err := <-ack.Err():
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	for range turnOps * outputBytes / outputFrame {
		if len(acks) == mesh.LogWindow {
			if err := settle(); err != nil {
				return err
			}
		}
		m := nats.NewMsg(r.subject)
		m.Data = content
		ack, err := r.js.PublishMsgAsync(m)
		if err != nil {
			return err
		}
		acks = append(acks, ack)
	}
	for len(acks) > 0 {
		if err := settle(); err != nil {
			return err
		}
	}
	return nil
}

// next waits for one MiB of a turn, and after the last one for its end.
func (r *rawOutput) next(ctx context.Context, i int) error {
	if i == 0 {
		go func() { r.over <- r.publish(ctx) }()
	}
	for range outputBytes / outputFrame {
		select {
		case <-r.frames:
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(outputWait):
			return mesh.Errorf(mesh.CodeInternal, "bench: frames of the floor are missing")
		}
	}
	if i == turnOps-1 {
		return <-r.over
	}
	return nil
}

// exitPair measures from the moment at which a command looks at the clock as its last
// act to the moment at which its client knows of its end. It has written before, so
// its log has frames to wait for.
func exitPair(ws *client.Workspace) *pair {
	return &pair{
		lag: func(ctx context.Context, _ int) (time.Duration, error) {
			out, err := ws.Command(ctx, "sh", "-c", "echo; sleep 0.01; exec date +%s%N").Output()
			now := time.Now()
			if err != nil {
				return 0, err
			}
			at, err := strconv.ParseInt(strings.TrimSpace(string(out)), 10, 64)
			return now.Sub(time.Unix(0, at)), err
		},
		close: func() {},
	}
}
