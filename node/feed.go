package node

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/objstore"
)

// readChanges answers from the journal, whoever owns the workspace: nothing is
// opened, and nobody is asked.
func (n *Node) readChanges(ctx context.Context, t mesh.Tenant, req *mesh.Request) (*mesh.Reply, error) {
	var a mesh.ChangesRequest
	if err := req.Args(&a); err != nil {
		return nil, err
	}
	w, err := reachable(req, a.Workspace)
	if err != nil {
		return nil, err
	}
	record, err := n.kv.Workspaces.Get(ctx, t, w)
	if err != nil {
		return nil, err
	}
	feed := feed{
		stream: n.shards[record.Shard].journal, subject: mesh.JournalSubject(record.Shard, t, w), scope: req.Scope,
		at: mesh.ChangeCursor{Workspace: record.ID}, reply: mesh.ChangesReply{Changes: []mesh.ToldChange{}},
	}
	from := feed.at
	if a.Cursor != "" {
		if from, err = mesh.ParseChangeCursor(a.Cursor); err != nil {
			return nil, err
		}
	}
	if a.Cursor == "" || from.Workspace != record.ID {
		err = feed.toEnd(ctx)
		feed.reply.Resync = a.Cursor != ""
	} else {
		feed.at = from
		err = feed.read(ctx, min(time.Duration(a.WaitMS)*time.Millisecond, mesh.MaxLogWait))
	}
	feed.reply.Cursor = feed.at.String()
	return &mesh.Reply{Args: feed.reply}, err
}

// feed reads what a workspace's journal says of its files.
type feed struct {
	stream  mesh.Leader
	subject string
	scope   string
	at      mesh.ChangeCursor
	reply   mesh.ChangesReply
}

// maxFeedRecords bounds how many records are read for one page.
const maxFeedRecords = 500

// read reads a page from the cursor on. It waits for a first change, not for longer
// than wait.
func (f *feed) read(ctx context.Context, wait time.Duration) error {
	until := time.Now().Add(wait)
	pause := time.Millisecond
	for size, records := 0, 0; ; records++ {
		r, err := f.next(ctx)
		switch {
		case err != nil:
			return err
		case r == nil && len(f.reply.Changes) == 0 && time.Now().Add(pause).Before(until):
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(pause):
			}
			pause = min(2*pause, 32*time.Millisecond)
			continue
		case r == nil:
			return nil
		case r.Prev != f.at.Sequence: // those between are in a checkpoint
			f.reply.Changes, f.reply.Resync = []mesh.ToldChange{}, true
			return f.toEnd(ctx)
		}
		for i, c := range r.Changes() {
			seen, ok := c.In(f.scope)
			if i < f.at.Told || !ok {
				continue
			}
			if size += 6*(len(c.Path)+len(c.To)) + 140; size > mesh.MaxMessage && len(f.reply.Changes) > 0 {
				f.at.Told, f.reply.More = i, true
				return nil
			}
			f.reply.Changes = append(f.reply.Changes, mesh.ToldChange{Change: seen, After: r.Prev, Told: i + 1})
		}
		f.at.Sequence, f.at.Told = r.Sequence, 0
		if records >= maxFeedRecords {
			f.reply.More = true
			return nil
		}
	}
}

// next is the first record behind the cursor; nil: there is none.
func (f *feed) next(ctx context.Context) (*objstore.StoredRecord, error) {
	raw, err := f.stream.Next(ctx, f.subject, f.at.Sequence+1)
	return recordOf(raw, err)
}

// toEnd moves the cursor behind the last record.
func (f *feed) toEnd(ctx context.Context) error {
	raw, err := f.stream.Last(ctx, f.subject)
	r, err := recordOf(raw, err)
	if r != nil {
		f.at.Sequence, f.at.Told = r.Sequence, 0
	}
	return err
}

func recordOf(raw *jetstream.RawStreamMsg, err error) (*objstore.StoredRecord, error) {
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the journal: %w", unavailable(err))
	}
	return objstore.DecodeRecord(raw.Sequence, raw.Data)
}
