package mcpgw

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/node/nodetest"
)

// A process is started, typed to, read from an offset, waited for, listed and ended.
func TestProcessTools(t *testing.T) {
	nodetest.Commands(t)
	eachTools(t, func(t *testing.T, x *tools) {
		_, r := x.ok(t, "process_list", args{})
		require.Empty(t, r["processes"])
		_, r = x.ok(t, "process_start", args{"command": "echo up; cat; echo over; exit 3", "interactive": true})
		id := r["processId"].(string)
		_, r = x.ok(t, "process_read", args{"processId": id, "waitMs": 30000})
		require.Equal(t, "up\n", r["output"])
		require.Equal(t, "running", r["state"])
		require.EqualValues(t, 3, r["nextOffset"])
		_, r = x.ok(t, "process_write", args{"processId": id, "data": "typed\n"})
		require.EqualValues(t, 6, r["writtenBytes"])
		text, r := x.ok(t, "process_read", args{"processId": id, "offset": 3, "waitMs": 30000})
		require.Equal(t, "typed\n", r["output"])
		require.Contains(t, text, "call process_read with offset=9")
		text, _ = x.ok(t, "process_list", args{})
		require.Contains(t, text, id+": running;")
		require.Contains(t, text, "echo up; cat; echo over; exit 3")

		_, r = x.ok(t, "process_start", args{"command": "sleep 600"})
		other := r["processId"].(string)
		x.ok(t, "process_write", args{"processId": id, "closeStdin": true})
		_, r = x.ok(t, "process_wait", args{"processIds": []string{other, id}})
		require.Equal(t, id, r["processId"])
		require.EqualValues(t, 3, r["exitCode"])
		_, r = x.ok(t, "process_read", args{"processId": id, "offset": 9})
		require.Equal(t, "over\n", r["output"])
		require.Equal(t, "exited", r["state"])
		_, r = x.ok(t, "process_read", args{"processId": id, "maxOutputBytes": 2})
		require.Equal(t, "up", r["output"])
		require.Equal(t, true, r["more"])

		x.fails(t, mesh.CodeDeadline, "process_wait", args{"processIds": []string{other}, "waitMs": 50})
		x.ok(t, "process_kill", args{"processId": other, "signal": "KILL"})
		_, r = x.ok(t, "process_wait", args{"processIds": []string{other}})
		require.EqualValues(t, 137, r["exitCode"])
		x.fails(t, mesh.CodeNotFound, "process_kill", args{"processId": other})
		x.fails(t, mesh.CodeNotFound, "process_read", args{"processId": string(mesh.NewExecID())})
		x.fails(t, mesh.CodeInvalid, "process_read", args{"processId": "7"})
		_, r = x.ok(t, "process_list", args{"all": true, "limit": 1})
		require.Len(t, r["processes"], 1)
		require.Equal(t, true, r["truncated"])
	})
}

// A command that takes long is left running, and named.
func TestExecYields(t *testing.T) {
	nodetest.Commands(t)
	eachTools(t, func(t *testing.T, x *tools) {
		text, r := x.ok(t, "exec", args{"command": "echo begun; sleep 600", "yieldMs": 1000})
		require.Equal(t, "begun\n", r["stdout"])
		require.NotContains(t, r, "exitCode")
		id := r["processId"].(string)
		require.Contains(t, text, "process_read with offset=6")
		x.ok(t, "process_kill", args{"processId": id, "signal": "KILL"})
		_, r = x.ok(t, "process_wait", args{"processIds": []string{id}})
		require.EqualValues(t, 137, r["exitCode"])
	})
}
