package bench

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/wsmesh/wsmesh/client"
	"github.com/wsmesh/wsmesh/mesh"
)

const (
	// outputBytes are what one exec_output writes, in frames of outputFrame on both
	// sides.
	outputBytes = 1 << 20
	outputFrame = 64 << 10
)

// outputPair has a command write 1 MiB that arrives here, against the same bytes
// published to a stream like an exec log, all of them on their way at once.
func outputPair(ctx context.Context, cfg Config, ws *client.Workspace, replicas int) (*pair, error) {
	js, err := jetstream.New(cfg.Floor)
	if err != nil {
		return nil, err
	}
	settings := mesh.Streams(mesh.Storage{Shards: 1, Replicas: replicas})[1]
	prefix := "bench." + mesh.NewID()
	settings.Subjects = []string{prefix + ".*.*.*"}
	settings.RePublish = &jetstream.RePublish{
		Source: settings.Subjects[0], Destination: "bench.seen.{{wildcard(1)}}.{{wildcard(2)}}.{{wildcard(3)}}",
	}
	stream, err := createStream(ctx, js, settings)
	if err != nil {
		return nil, err
	}
	content := make([]byte, outputFrame)
	return &pair{
		floorName: "NATS stream",
		ours: func(ctx context.Context, _ int) error {
			cmd := ws.Command(ctx, "head", "-c", strconv.Itoa(outputBytes), "/dev/zero")
			var n counter
			cmd.Stdout = &n
			if err := cmd.Run(); err != nil {
				return err
			}
			if n != outputBytes {
				return mesh.Errorf(mesh.CodeInternal, "bench: %d bytes of output arrived instead of %d", n, outputBytes)
			}
			return nil
		},
		floor: func(ctx context.Context, i int) error {
			subject := fmt.Sprintf("%s.tenant.workspace.%d", prefix, i)
			var acks []jetstream.PubAckFuture
			for range outputBytes / outputFrame {
				m := nats.NewMsg(subject)
				m.Data = content
				ack, err := js.PublishMsgAsync(m)
				if err != nil {
					return err
				}
				acks = append(acks, ack)
			}
			for _, ack := range acks {
				select {
				case <-ack.Ok():
				case err := <-ack.Err():
					return err
				case <-ctx.Done():
					return ctx.Err()
				}
			}
			return nil
		},
		close: func() { dropStream(ctx, js, stream) },
	}, nil
}

type counter int

func (c *counter) Write(p []byte) (int, error) {
	*c += counter(len(p))
	return len(p), nil
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

// capturedFiles is how many the workspace of the row capture has.
const capturedFiles = 10_000

// capturePair is how long the end of a command that changes nothing waits until the
// node knows that, in a workspace of many files.
func capturePair(ctx context.Context, ws *client.Workspace) (*pair, error) {
	script := fmt.Sprintf(`for d in $(seq %d); do mkdir $d; i=0; while [ $i -lt 100 ]; do echo $d/$i > $d/$i; i=$((i+1)); done; done`, capturedFiles/100)
	cmd := ws.Command(ctx, "sh", "-c", script)
	if err := cmd.Run(); err != nil {
		return nil, err
	}
	if n := cmd.Final().Files; n < capturedFiles {
		return nil, mesh.Errorf(mesh.CodeInternal, "bench: %d of %d files were captured", n, capturedFiles)
	}
	return &pair{
		lag: func(ctx context.Context, _ int) (time.Duration, error) {
			cmd := ws.Command(ctx, command)
			err := cmd.Run()
			return time.Duration(cmd.Final().CaptureUS) * time.Microsecond, err
		},
		close: func() {},
	}, nil
}
