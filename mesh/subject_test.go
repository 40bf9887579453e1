package mesh_test

import (
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/wsmesh/wsmesh/mesh"
)

const exec1 = mesh.ExecID("018bcfe5-6800-7abc-9def-0123456789ab")

func TestSubjects(t *testing.T) {
	for _, c := range []struct{ name, want, got string }{
		{"owner", "ws.v1.acme.repo.41.exec", mesh.OwnerSubject("acme", "repo", 41, mesh.VerbExec)},
		{"owner's subscription", "ws.v1.acme.repo.41.*", mesh.OwnerWildcard("acme", "repo", 41)},
		{"api", "api.v1.acme.place.open", mesh.APISubject("acme", mesh.ServicePlace, mesh.VerbPlaceOpen)},
		{"api of one node", "api.v1.acme.log.read.n1", mesh.APINodeSubject("acme", mesh.ServiceLog, mesh.VerbLogRead, "n1")},
		{"api subscription of one node", "api.v1.*.*.*.n1", mesh.APINodeWildcard("n1")},
		{"admin", "admin.v1.status", mesh.AdminSubject(mesh.VerbAdminStatus)},
		{"node", "node.v1.n1.open", mesh.NodeSubject("n1", mesh.VerbNodeOpen)},
		{"frames", "out.v1.acme.repo." + string(exec1), mesh.OutSubject("acme", "repo", exec1)},
		{"events", "ev.v1.acme.repo", mesh.EventSubject("acme", "repo")},
		{"journal", "int.v1.journal.03.acme.repo", mesh.JournalSubject(3, "acme", "repo")},
		{"exec log", "int.v1.out.12.acme.repo." + string(exec1), mesh.ExecLogSubject(12, "acme", "repo", exec1)},
		{"journal stream", "JOURNAL_03", mesh.JournalStream(3)},
		{"exec log stream", "EXECLOG_12", mesh.ExecLogStream(12)},
		{"inbox", "_INBOX.acme.0123456789abcdef", mesh.InboxPrefix("acme", "0123456789abcdef")},
		{"verb", "exec", mesh.Verb("ws.v1.acme.repo.41.exec")},
		{"verb of one token", "exec", mesh.Verb("exec")},
	} {
		t.Run(c.name, func(t *testing.T) { require.Equal(t, c.want, c.got) })
	}
}

func TestPrincipal(t *testing.T) {
	for _, c := range []struct{ name, subject, want string }{
		{"owner", "ws.v1.acme.repo.41.exec", "acme"},
		{"api", "api.v1.acme.place.open", "acme"},
		{"api of one node", "api.v1.acme.place.open.n1", "acme"},
		{"node", "node.v1.n1.open", mesh.PrincipalNode},
		{"admin", "admin.v1.status", mesh.PrincipalAdmin},
		{"frames", "out.v1.acme.repo.x", ""},
		{"events", "ev.v1.acme.repo", ""},
		{"internal", "int.v1.journal.00.acme.repo", ""},
		{"JetStream", "$JS.API.STREAM.PURGE.JOURNAL_00", ""},
		{"bucket", "$KV.owners.acme.repo", ""},
		{"inbox", "_INBOX.acme.x", ""},
		{"next version", "ws.v2.acme.repo.41.exec", ""},
		{"longer version", "ws.v11.acme.repo.41.exec", ""},
		{"api of the next version", "api.v2.acme.place.open", ""},
		{"admin of the next version", "admin.v2.status", ""},
		{"node of the next version", "node.v2.n1.open", ""},
		{"look-alike family", "wsx.v1.acme.repo.41.exec", ""},
		{"shorter family", "w.v1.acme.repo.41.exec", ""},
		{"look-alike api", "apix.v1.acme.place.open", ""},
		{"upper case family", "WS.v1.acme.repo.41.exec", ""},
		{"upper case version", "ws.V1.acme.repo.41.exec", ""},
		{"upper case tenant", "ws.v1.Acme.repo.41.exec", ""},
		{"wildcard tenant", "ws.v1.*.repo.41.exec", ""},
		{"principal as a tenant", "ws.v1._node.repo.41.exec", ""},
		{"admin as a tenant", "api.v1._admin.place.open", ""},
		{"trailing hyphen", "ws.v1.acme-.repo.41.exec", ""},
		{"no tenant", "ws.v1", ""},
		{"empty tenant", "ws.v1..repo.41.exec", ""},
		{"empty version", "ws..acme.repo.41.exec", ""},
		{"leading dot", ".ws.v1.acme.repo", ""},
		{"no admin verb", "admin.v1", ""},
		{"empty admin verb", "admin.v1.", ""},
		{"no node", "node.v1", ""},
		{"family only", "ws", ""},
		{"empty", "", ""},
		{"dot", ".", ""},
	} {
		t.Run(c.name, func(t *testing.T) { require.Equal(t, c.want, mesh.Principal(c.subject)) })
	}
}

var drawName = rapid.StringMatching(`[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?`)

func TestSubjectsRoundTrip(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		tenant := mesh.Tenant(drawName.Draw(r, "tenant"))
		w := mesh.Workspace(drawName.Draw(r, "workspace"))
		epoch := mesh.Epoch(rapid.Uint64Min(1).Draw(r, "epoch"))
		node := mesh.Node(drawName.Draw(r, "node"))

		owner := mesh.OwnerSubject(tenant, w, epoch, mesh.VerbRead)
		address, err := mesh.ParseOwnerSubject(owner)
		require.NoError(r, err)
		require.Equal(r, mesh.OwnerAddress{Tenant: tenant, Workspace: w, Epoch: epoch, Verb: mesh.VerbRead}, address)
		require.Equal(r, string(tenant), mesh.Principal(owner))

		api, err := mesh.ParseAPISubject(mesh.APISubject(tenant, mesh.ServiceLog, mesh.VerbLogRead))
		require.NoError(r, err)
		require.Equal(r, mesh.APIAddress{Tenant: tenant, Service: mesh.ServiceLog, Verb: mesh.VerbLogRead}, api)

		one := mesh.APINodeSubject(tenant, mesh.ServiceLog, mesh.VerbLogRead, node)
		api, err = mesh.ParseAPISubject(one)
		require.NoError(r, err)
		require.Equal(r, mesh.APIAddress{Tenant: tenant, Service: mesh.ServiceLog, Verb: mesh.VerbLogRead, Node: node}, api)
		require.Equal(r, string(tenant), mesh.Principal(one))
	})
}

func TestParseSubjectsRefuse(t *testing.T) {
	owner := func(s string) error { _, err := mesh.ParseOwnerSubject(s); return err }
	api := func(s string) error { _, err := mesh.ParseAPISubject(s); return err }
	for _, c := range []struct {
		name, subject string
		parse         func(string) error
	}{
		{"owner: empty", "", owner},
		{"owner: look-alike family", "wsx.v1.acme.repo.41.exec", owner},
		{"owner: next version", "ws.v2.acme.repo.41.exec", owner},
		{"owner: api subject", "api.v1.acme.place.open.n1", owner},
		{"owner: no verb", "ws.v1.acme.repo.41", owner},
		{"owner: empty verb", "ws.v1.acme.repo.41.", owner},
		{"owner: one token more", "ws.v1.acme.repo.41.exec.x", owner},
		{"owner: bad tenant", "ws.v1.Acme.repo.41.exec", owner},
		{"owner: wildcard workspace", "ws.v1.acme.*.41.exec", owner},
		{"owner: epoch zero", "ws.v1.acme.repo.0.exec", owner},
		{"owner: epoch with zeros", "ws.v1.acme.repo.041.exec", owner},
		{"owner: epoch wildcard", "ws.v1.acme.repo.*.exec", owner},
		{"api: empty", "", api},
		{"api: look-alike family", "apix.v1.acme.place.open", api},
		{"api: next version", "api.v2.acme.place.open", api},
		{"api: owner subject", "ws.v1.acme.repo.41.exec", api},
		{"api: no verb", "api.v1.acme.place", api},
		{"api: empty verb", "api.v1.acme.place.", api},
		{"api: empty word", "api.v1.acme..open", api},
		{"api: one token more", "api.v1.acme.place.open.n1.x", api},
		{"api: bad tenant", "api.v1.a_b.place.open", api},
		{"api: bad node", "api.v1.acme.place.open.N1", api},
		{"api: empty node", "api.v1.acme.place.open.", api},
	} {
		t.Run(c.name, func(t *testing.T) { require.Equal(t, mesh.CodeInvalid, mesh.CodeOf(c.parse(c.subject))) })
	}
}

func FuzzParseSubjects(f *testing.F) {
	for _, s := range []string{"ws.v1.acme.repo.41.exec", "api.v1.acme.log.read", "api.v1.acme.log.read.n1", "ws.v1.acme", "..", "ws.v1.*.>.1.x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if a, err := mesh.ParseOwnerSubject(s); err == nil {
			require.Equal(t, s, mesh.OwnerSubject(a.Tenant, a.Workspace, a.Epoch, a.Verb))
			require.Equal(t, string(a.Tenant), mesh.Principal(s))
		}
		if a, err := mesh.ParseAPISubject(s); err == nil {
			back := mesh.APISubject(a.Tenant, a.Service, a.Verb)
			if a.Node != "" {
				back = mesh.APINodeSubject(a.Tenant, a.Service, a.Verb, a.Node)
			}
			require.Equal(t, s, back)
			require.Equal(t, string(a.Tenant), mesh.Principal(s))
		}
	})
}
