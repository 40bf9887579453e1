package mesh

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// Storage says how the mesh keeps its streams.
type Storage struct {
	Shards   int // streams of journals, exec logs and packs each; at least 1
	Replicas int // 1 on one server, 3 in production
}

// DefaultLogAge is how long an exec's frames are kept.
const DefaultLogAge = 7 * 24 * time.Hour

// streamTry bounds one try to find or create a stream.
const streamTry = 2 * time.Second

// Streams returns the settings of every stream of the mesh. What matters:
//
//   - DiscardNew and no limits per subject: a full stream refuses, it never
//     drops a record, a claim or an owner;
//   - AllowDirect off but for packs and journals: any replica may answer a direct read,
//     and an old answer would be taken for the truth. Of packs, and of what comes before
//     a record that is known, a replica has the right bytes or none, and sends them as
//     they are, where the leader writes base64 (see Leader.Known);
//   - republish: clients see what was stored, and nothing else;
//   - no deduplication by message id is relied on: the expected sequence is it.
func Streams(s Storage) []jetstream.StreamConfig {
	base := jetstream.StreamConfig{
		Retention: jetstream.LimitsPolicy,
		Storage:   jetstream.FileStorage,
		Discard:   jetstream.DiscardNew,
		Replicas:  s.Replicas,
	}
	var all []jetstream.StreamConfig
	for i := range s.Shards {
		journal := base
		journal.Name = JournalStream(i)
		journal.Subjects = []string{fmt.Sprintf("int.v1.journal.%02d.*.*", i)}
		journal.RePublish = &jetstream.RePublish{
			Source:      journal.Subjects[0],
			Destination: "ev.v1.{{wildcard(1)}}.{{wildcard(2)}}",
			HeadersOnly: true,
		}
		journal.AllowDirect = true
		log := base
		log.Name = ExecLogStream(i)
		log.Subjects = []string{fmt.Sprintf("int.v1.out.%02d.*.*.*", i)}
		log.MaxAge = DefaultLogAge
		log.RePublish = &jetstream.RePublish{
			Source:      log.Subjects[0],
			Destination: "out.v1.{{wildcard(1)}}.{{wildcard(2)}}.{{wildcard(3)}}",
		}
		packs := base
		packs.Name = PackStream(i)
		packs.Subjects = []string{fmt.Sprintf("int.v1.pack.%02d.*.*.*", i)}
		packs.MaxMsgsPerSubject = 1
		packs.DiscardNewPerSubject = true // what a part's subject holds never changes
		packs.AllowDirect = true
		all = append(all, journal, log, packs)
	}
	for _, bucket := range []string{BucketOwners, BucketNodes, BucketWorkspaces, BucketTenants, BucketSnapshots, BucketGarbage} {
		kv := base
		kv.Name = "KV_" + bucket
		kv.Subjects = []string{"$KV." + bucket + ".>"}
		kv.MaxMsgsPerSubject = 1
		kv.DenyDelete = true
		kv.AllowRollup = true
		kv.AllowMsgTTL = bucket == BucketSnapshots // what is left of a removed one goes after a while
		all = append(all, kv)
	}
	return all
}

// MemoryStreams returns the settings of the memory streams, which are made when
// a tenant first uses its memory. One message a key; every message may have an
// end of life, and leaves a marker when that comes, so that who watches hears of
// it; several keys may change at once.
func MemoryStreams(s Storage) []jetstream.StreamConfig {
	var all []jetstream.StreamConfig
	for i := range MemoryShards {
		all = append(all, jetstream.StreamConfig{
			Name:                   MemoryStream(i),
			Subjects:               []string{fmt.Sprintf("int.v1.mem.%02d.>", i)},
			Retention:              jetstream.LimitsPolicy,
			Storage:                jetstream.FileStorage,
			Discard:                jetstream.DiscardNew,
			Replicas:               s.Replicas,
			MaxMsgsPerSubject:      1,
			AllowRollup:            true, // markers need it
			AllowMsgTTL:            true,
			SubjectDeleteMarkerTTL: TombstoneTTL,
			AllowAtomicPublish:     true,
		})
	}
	return all
}

// EnsureStreams creates the streams that do not exist, and looks at the memory
// streams that do. One that exists with other settings is refused with
// CodeConflict, naming the stream and the setting: a mesh on wrong settings would
// break its promises quietly. It waits for a JetStream leader until ctx ends.
func EnsureStreams(ctx context.Context, js jetstream.JetStream, s Storage) error {
	for _, want := range Streams(s) {
		if _, err := findStream(ctx, js, want, true); err != nil {
			return err
		}
	}
	for _, want := range MemoryStreams(s) {
		_, err := findStream(ctx, js, want, false)
		if err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
			return err
		}
	}
	return nil
}

// EnsureStream is EnsureStreams for one stream, which it returns.
func EnsureStream(ctx context.Context, js jetstream.JetStream, want jetstream.StreamConfig) (jetstream.Stream, error) {
	return findStream(ctx, js, want, true)
}

func findStream(ctx context.Context, js jetstream.JetStream, want jetstream.StreamConfig, create bool) (jetstream.Stream, error) {
	for began := time.Now(); ; {
		stream, err := findOnce(ctx, js, want, create)
		if err == nil {
			if field := streamDifference(want, stream.CachedInfo().Config); field != "" {
				return nil, Errorf(CodeConflict, "stream %s exists with another %s; this node does not work on it", want.Name, field)
			}
			return stream, nil
		}
		if errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
			continue // another node created it meanwhile
		}
		var api jetstream.JetStreamError
		if errors.As(err, &api) && api.APIError() != nil && api.APIError().Code < 500 && (api.APIError().ErrorCode != errCodeNoPeers || time.Since(began) > peersWait) {
			return nil, fmt.Errorf("stream %s: %w", want.Name, err)
		}
		select { // no leader yet, or not all servers that it takes
		case <-ctx.Done():
			return nil, fmt.Errorf("stream %s: %w (last: %w)", want.Name, ctx.Err(), err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// errCodeNoPeers says that too few servers are there for a stream's replicas, or
// that the leader has not heard from them yet.
const errCodeNoPeers = 10005

// peersWait is how long a stream waits for them: servers that start together know one
// another by then.
const peersWait = 15 * time.Second

// findOnce bounds one try: the server may never answer one of several that
// create a stream at once, and then another try finds the stream.
func findOnce(ctx context.Context, js jetstream.JetStream, want jetstream.StreamConfig, create bool) (jetstream.Stream, error) {
	ctx, cancel := context.WithTimeout(ctx, streamTry)
	defer cancel()
	stream, err := js.Stream(ctx, want.Name)
	if create && errors.Is(err, jetstream.ErrStreamNotFound) {
		stream, err = js.CreateStream(ctx, want)
	}
	return stream, err
}

// streamDifference names the first setting that matters and differs.
func streamDifference(want, have jetstream.StreamConfig) string {
	unlimited := func(n int64) int64 { return max(n, 0) } // the server says -1 for what we leave 0
	for _, c := range []struct {
		setting string
		same    bool
	}{
		{"subjects", slices.Equal(want.Subjects, have.Subjects)},
		{"storage", want.Storage == have.Storage},
		{"retention", want.Retention == have.Retention},
		{"discard policy", want.Discard == have.Discard},
		{"discard policy per subject", want.DiscardNewPerSubject == have.DiscardNewPerSubject},
		{"maximum age", want.MaxAge == have.MaxAge},
		{"messages per subject", unlimited(want.MaxMsgsPerSubject) == unlimited(have.MaxMsgsPerSubject)},
		{"maximum number of messages", unlimited(have.MaxMsgs) == 0},
		{"direct reads", want.AllowDirect || !have.AllowDirect}, // one that has none is slower and as good
		{"number of replicas", want.Replicas == have.Replicas},
		{"lives of messages", want.AllowMsgTTL == have.AllowMsgTTL},
		{"life of markers", want.SubjectDeleteMarkerTTL == have.SubjectDeleteMarkerTTL},
		{"atomic publishing", want.AllowAtomicPublish == have.AllowAtomicPublish},
		{"republish", sameRepublish(want.RePublish, have.RePublish)},
	} {
		if !c.same {
			return c.setting
		}
	}
	return ""
}

func sameRepublish(a, b *jetstream.RePublish) bool {
	if a == nil || b == nil {
		return a == b
	}
	return *a == *b
}
