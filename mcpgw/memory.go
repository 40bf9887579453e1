package mcpgw

import (
	"cmp"
	"context"
	"encoding/base64"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/mark3labs/mcp-go/server"

	"github.com/wsmesh/wsmesh/client"
	"github.com/wsmesh/wsmesh/mesh"
)

// DefaultKeys and MaxKeys are how many keys one result shows.
const (
	DefaultKeys = 100
	MaxKeys     = 1000
)

type keyArgs struct {
	Key       string `json:"key" jsonschema:"key, up to 512 bytes; slashes make levels, e.g. project/decisions"`
	Namespace string `json:"namespace,omitempty" jsonschema:"which memory; default main"`
}

type memoryValue struct {
	Key        string `json:"key"`
	Value      string `json:"value" jsonschema:"the value; empty when it is not UTF-8 and stands in base64"`
	Base64     string `json:"base64,omitempty" jsonschema:"a value that is not UTF-8, in base64"`
	Revision   uint64 `json:"revision" jsonschema:"grows with every change of the key; hand it to memory_put as ifRevision"`
	ModifiedAt string `json:"modifiedAt" jsonschema:"RFC 3339, UTC"`
	ExpiresAt  string `json:"expiresAt,omitempty" jsonschema:"when the value goes away by itself, if it does"`
}

func (r memoryValue) text() string {
	if r.Base64 != "" {
		return "[the value is not UTF-8; in base64 it is:]\n" + r.Base64
	}
	return r.Value
}

type putArgs struct {
	keyArgs
	Value      string  `json:"value" jsonschema:"text to remember, at most 524288 bytes"`
	TTLSeconds int64   `json:"ttlSeconds,omitempty" jsonschema:"forget it after so many seconds; default never" limits:"min=1 max=315360000"`
	IfRevision *uint64 `json:"ifRevision,omitempty" jsonschema:"change it only if it has this revision; 0: only if the key has no value"`
}

type putResult struct {
	Key      string `json:"key"`
	Bytes    int    `json:"bytes"`
	Revision uint64 `json:"revision" jsonschema:"of the value that was put"`
}

func (r putResult) text() string {
	return fmt.Sprintf("Remembered %s under %s (revision %d)", counted(int64(r.Bytes), "byte"), r.Key, r.Revision)
}

type keysArgs struct {
	Prefix    string `json:"prefix,omitempty" jsonschema:"only keys that begin with it"`
	Namespace string `json:"namespace,omitempty" jsonschema:"which memory; default main"`
	Limit     int    `json:"limit,omitempty" jsonschema:"how many keys to show" limits:"min=0 max=1000 default=100"`
	Cursor    string `json:"cursor,omitempty" jsonschema:"nextCursor of the call before"`
}

type keyEntry struct {
	Key        string `json:"key"`
	SizeBytes  int64  `json:"sizeBytes"`
	Revision   uint64 `json:"revision"`
	ModifiedAt string `json:"modifiedAt" jsonschema:"RFC 3339, UTC"`
	ExpiresAt  string `json:"expiresAt,omitempty"`
}

type keysResult struct {
	Keys       []keyEntry `json:"keys" jsonschema:"sorted by key; without the values"`
	Truncated  bool       `json:"truncated" jsonschema:"there may be more"`
	NextCursor string     `json:"nextCursor,omitempty" jsonschema:"cursor of the call that shows the next"`
	Note       string     `json:"note,omitempty" jsonschema:"how to see the rest"`
}

func (r keysResult) text() string {
	var b strings.Builder
	for _, k := range r.Keys {
		fmt.Fprintf(&b, "%s (%s, %s)\n", shownName(k.Key), counted(k.SizeBytes, "byte"), k.ModifiedAt)
	}
	if len(r.Keys) == 0 && !r.Truncated {
		b.WriteString("(no keys)\n")
	}
	return withNote(&b, r.Note)
}

type forgetArgs struct {
	keyArgs
	IfRevision *uint64 `json:"ifRevision,omitempty" jsonschema:"delete it only if it has this revision"`
}

type forgetResult struct {
	Key string `json:"key"`
}

func (r forgetResult) text() string { return "Deleted " + r.Key }

func addMemory(s *server.MCPServer) {
	next := map[mesh.Code]string{
		mesh.CodeNotFound: "See what is remembered with memory_list.",
		mesh.CodeExists:   "Read it with memory_get, then change it with its revision as ifRevision.",
		mesh.CodeConflict: "Somebody else changed it: read it again with memory_get, then decide.",
		mesh.CodeDenied:   "Keep it in a file of the workspace instead (write_file).",
		mesh.CodeTooLarge: "Keep it in a file of the workspace (write_file), and remember its path.",
	}
	add(s, tool[keyArgs, memoryValue]{
		name: "memory_get", title: "Recall a value",
		description: "Read the value that is remembered under a key. Memory belongs to the tenant, is shared by all its workspaces, and outlives them.",
		hints:       hints{readOnly: true, idempotent: true},
		run:         recall, next: next,
	})
	add(s, tool[putArgs, putResult]{
		name: "memory_put", title: "Remember a value",
		description: "Remember a text under a key, and replace what was there. Whoever reads next, in any session, sees it. To change what others " +
			"change too, read first and hand the revision on as ifRevision: the put fails if it is another by then.",
		hints: hints{destructive: true, idempotent: true},
		run:   remember, next: next,
	})
	add(s, tool[keysArgs, keysResult]{
		name: "memory_list", title: "List what is remembered",
		description: "List the keys that have a value, sorted, without the values; with prefix only those that begin with it. Shows 100 unless limit " +
			"says otherwise, at most 1000; a result that is cut says how to go on.",
		hints: hints{readOnly: true, idempotent: true},
		run:   listKeys, next: next,
	})
	add(s, tool[forgetArgs, forgetResult]{
		name: "memory_delete", title: "Forget a value",
		description: "Delete a key with its value. It cannot be undone.",
		hints:       hints{destructive: true, idempotent: true},
		run:         forget, next: next,
	})
}

// memory is a memory of the caller. A scope of the workspace is one of memory as
// well: who sees a part of the one sees that part of the other.
func (c *call) memory(namespace string) *client.Memory {
	m := c.client.Memory(namespace)
	if scope, err := mesh.ParseScope("", c.scope); err == nil && scope != "." {
		m = m.Scope(scope)
	}
	return m
}

func recall(ctx context.Context, c *call, in keyArgs) (memoryValue, error) {
	e, err := c.memory(in.Namespace).Get(ctx, in.Key)
	r := memoryValue{Key: in.Key, Revision: e.Revision, ModifiedAt: timestamp(e.Modified), ExpiresAt: timestamp(e.Expires)}
	if utf8.Valid(e.Value) {
		r.Value = string(e.Value)
	} else {
		r.Base64 = base64.StdEncoding.EncodeToString(e.Value)
	}
	return r, err
}

// timestamp is "" for the zero time.
func timestamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}

func remember(ctx context.Context, c *call, in putArgs) (putResult, error) {
	var options []client.MemoryOption
	if in.TTLSeconds > 0 {
		options = append(options, client.TTL(time.Duration(in.TTLSeconds)*time.Second))
	}
	if in.IfRevision != nil {
		options = append(options, client.IfRevision(*in.IfRevision))
	}
	rev, err := c.memory(in.Namespace).Put(ctx, in.Key, []byte(in.Value), options...)
	return putResult{Key: shownName(in.Key), Bytes: len(in.Value), Revision: rev}, err
}

func listKeys(ctx context.Context, c *call, in keysArgs) (keysResult, error) {
	l := client.MemoryList{Prefix: in.Prefix}
	if err := decodeCursor(in.Cursor, &l.After); err != nil {
		return keysResult{}, err
	}
	most := cmp.Or(in.Limit, DefaultKeys)
	r := keysResult{Keys: []keyEntry{}}
	for {
		l.Limit = most - len(r.Keys)
		page, err := c.memory(in.Namespace).ListPage(ctx, l)
		if err != nil {
			return keysResult{}, err
		}
		for _, e := range page.Entries {
			r.Keys = append(r.Keys, keyEntry{e.Key, e.Size, e.Revision, timestamp(e.Modified), timestamp(e.Expires)})
		}
		if l.After = page.Next; l.After == "" || len(r.Keys) >= most {
			break
		}
	}
	if l.After != "" {
		r.Truncated, r.NextCursor = true, encodeCursor(l.After)
		r.Note = fmt.Sprintf("%d keys are shown and there may be more; call memory_list with the same arguments and cursor=%q for more", len(r.Keys), r.NextCursor)
	}
	return r, nil
}

func forget(ctx context.Context, c *call, in forgetArgs) (forgetResult, error) {
	var options []client.MemoryOption
	if in.IfRevision != nil {
		options = append(options, client.IfRevision(*in.IfRevision))
	}
	return forgetResult{shownName(in.Key)}, c.memory(in.Namespace).Delete(ctx, in.Key, options...)
}
