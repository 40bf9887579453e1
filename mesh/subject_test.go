package mesh_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/wsmesh/wsmesh/mesh"
)

const exec1 = mesh.ExecID("018bcfe5-6800-7abc-9def-0123456789ab")

var bound = mesh.Bound{Token: "0123456789abcdef", Workspace: "repo", Scope: "users/u1.a"}

var pack = [32]byte(bytes.Repeat([]byte{10}, 32))

func TestSubjects(t *testing.T) {
	for _, c := range []struct{ name, want, got string }{
		{"owner", "ws.v1.acme.repo.41.exec", mesh.OwnerSubject("acme", "repo", 41, mesh.VerbExec)},
		{"owner's subscription", "ws.v1.acme.repo.41.>", mesh.OwnerWildcard("acme", "repo", 41)},
		{"api", "api.v1.acme.place.open", mesh.APISubject("acme", mesh.ServicePlace, mesh.VerbPlaceOpen)},
		{"api of one node", "api.v1.acme.log.read.n1", mesh.APINodeSubject("acme", mesh.ServiceLog, mesh.VerbLogRead, "n1")},
		{"api subscription of one node", "api.v1.*.*.*.n1", mesh.APINodeWildcards("n1")[0]},
		{"the same for bound tokens", "api.v1.*.*.*.n1.*.*.*", mesh.APINodeWildcards("n1")[1]},
		{"bound owner", "ws.v1.acme.repo.41.exec.0123456789abcdef.users%2Fu1%2Ea", bound.OwnerSubject("acme", 41, mesh.VerbExec)},
		{"bound api", "api.v1.acme.log.read._.0123456789abcdef.repo.users%2Fu1%2Ea", bound.APISubject("acme", mesh.ServiceLog, mesh.VerbLogRead, "")},
		{"bound api of one node", "api.v1.acme.log.read.n1.0123456789abcdef.repo.users%2Fu1%2Ea", bound.APISubject("acme", mesh.ServiceLog, mesh.VerbLogRead, "n1")},
		{"bound to a whole workspace", "ws.v1.acme.repo.41.exec.0123456789abcdef.%2E", mesh.Bound{Token: bound.Token, Workspace: "repo", Scope: "."}.OwnerSubject("acme", 41, mesh.VerbExec)},
		{"admin", "admin.v1.status", mesh.AdminSubject(mesh.VerbAdminStatus)},
		{"node", "node.v1.n1.open", mesh.NodeSubject("n1", mesh.VerbNodeOpen)},
		{"frames", "out.v1.acme.repo." + string(exec1), mesh.OutSubject("acme", "repo", exec1)},
		{"events", "ev.v1.acme.repo", mesh.EventSubject("acme", "repo")},
		{"journal", "int.v1.journal.03.acme.repo", mesh.JournalSubject(3, "acme", "repo")},
		{"exec log", "int.v1.out.12.acme.repo." + string(exec1), mesh.ExecLogSubject(12, "acme", "repo", exec1)},
		{"journal stream", "JOURNAL_03", mesh.JournalStream(3)},
		{"exec log stream", "EXECLOG_12", mesh.ExecLogStream(12)},
		{"pack's part", "int.v1.pack.03.acme." + strings.Repeat("0a", 32) + ".7", mesh.PackSubject(3, "acme", pack, 7)},
		{"pack's end", "int.v1.pack.03.acme." + strings.Repeat("0a", 32) + ".end", mesh.PackEndSubject(3, "acme", pack)},
		{"pack's parts", "int.v1.pack.03.acme." + strings.Repeat("0a", 32) + ".*", mesh.PackWildcard(3, "acme", pack)},
		{"packs' ends", "int.v1.pack.03.acme.*.end", mesh.PackEndWildcard(3, "acme")},
		{"pack stream", "PACKS_03", mesh.PackStream(3)},
		{"inbox", "_INBOX.acme.0123456789abcdef", mesh.InboxPrefix("acme", "0123456789abcdef")},
		{"verb", "exec", mesh.Verb("ws.v1.acme.repo.41.exec")},
		{"verb of a bound token", "exec", mesh.Verb(bound.OwnerSubject("acme", 41, mesh.VerbExec))},
		{"verb of a bound token's api", "read", mesh.Verb(bound.APISubject("acme", mesh.ServiceLog, mesh.VerbLogRead, "n1"))},
		{"verb of api for one node", "read", mesh.Verb("api.v1.acme.log.read.n1")},
		{"verb between nodes", "ping", mesh.Verb("node.v1.n1.ping")},
		{"verb of the operator", "status", mesh.Verb("admin.v1.status")},
		{"no verb", "", mesh.Verb("exec")},
		{"no verb at the end", "", mesh.Verb("ws.v1.acme")},
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

		scope, err := mesh.ParseScope("", rapid.StringMatching(`([^/\x00]{1,9}/){0,3}[^/\x00]{1,9}`).Draw(r, "scope"))
		if err != nil || len(mesh.EscapeScope(scope)) > mesh.MaxBoundScope {
			r.Skip("no scope of a token")
		}
		b := mesh.Bound{Token: mesh.NewTokenID(), Workspace: w, Scope: scope}
		own := b.OwnerSubject(tenant, epoch, mesh.VerbRead)
		require.Len(r, strings.Split(own, "."), 8)
		address, err = mesh.ParseOwnerSubject(own)
		require.NoError(r, err)
		require.Equal(r, mesh.OwnerAddress{Tenant: tenant, Workspace: w, Epoch: epoch, Verb: mesh.VerbRead, Bound: &b}, address)
		for _, n := range []mesh.Node{"", node} {
			of := b.APISubject(tenant, mesh.ServiceLog, mesh.VerbLogRead, n)
			api, err = mesh.ParseAPISubject(of)
			require.NoError(r, err)
			require.Equal(r, mesh.APIAddress{Tenant: tenant, Service: mesh.ServiceLog, Verb: mesh.VerbLogRead, Node: n, Bound: &b}, api)
			require.Equal(r, string(tenant), mesh.Principal(of))
		}
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
		{"owner: three tokens more", "ws.v1.acme.repo.41.exec.0123456789abcdef.a.b", owner},
		{"owner: bad token id", "ws.v1.acme.repo.41.exec.0123.a", owner},
		{"owner: scope that leaves", "ws.v1.acme.repo.41.exec.0123456789abcdef.%2E%2E%2Fa", owner},
		{"owner: scope not clean", "ws.v1.acme.repo.41.exec.0123456789abcdef.a%2F", owner},
		{"owner: another spelling", "ws.v1.acme.repo.41.exec.0123456789abcdef.%61", owner},
		{"owner: lower case escape", "ws.v1.acme.repo.41.exec.0123456789abcdef.a%2fb", owner},
		{"owner: scope with a NUL", "ws.v1.acme.repo.41.exec.0123456789abcdef.%00", owner},
		{"owner: bad escape", "ws.v1.acme.repo.41.exec.0123456789abcdef.%2", owner},
		{"owner: no scope", "ws.v1.acme.repo.41.exec.0123456789abcdef.", owner},
		{"owner: long scope", "ws.v1.acme.repo.41.exec.0123456789abcdef." + strings.Repeat("a%2F", 150) + "a", owner},
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
		{"api: any node, not bound", "api.v1.acme.place.open._", api},
		{"api: bound to a bad workspace", "api.v1.acme.place.open._.0123456789abcdef.R.%2E", api},
		{"api: bound by a bad token", "api.v1.acme.place.open._.x.repo.%2E", api},
		{"api: bound, empty node", "api.v1.acme.place.open..0123456789abcdef.repo.%2E", api},
		{"api: bad tenant", "api.v1.a_b.place.open", api},
		{"api: bad node", "api.v1.acme.place.open.N1", api},
		{"api: empty node", "api.v1.acme.place.open.", api},
	} {
		t.Run(c.name, func(t *testing.T) { require.Equal(t, mesh.CodeInvalid, mesh.CodeOf(c.parse(c.subject))) })
	}
}

func FuzzParseSubjects(f *testing.F) {
	for _, s := range []string{
		"ws.v1.acme.repo.41.exec", "api.v1.acme.log.read", "api.v1.acme.log.read.n1", "ws.v1.acme", "..", "ws.v1.*.>.1.x",
		bound.OwnerSubject("acme", 41, mesh.VerbExec), bound.APISubject("acme", mesh.ServiceLog, mesh.VerbLogRead, "n1"),
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if a, err := mesh.ParseOwnerSubject(s); err == nil {
			back := mesh.OwnerSubject(a.Tenant, a.Workspace, a.Epoch, a.Verb)
			if a.Bound != nil {
				back = a.Bound.OwnerSubject(a.Tenant, a.Epoch, a.Verb)
			}
			require.Equal(t, s, back)
			require.Equal(t, string(a.Tenant), mesh.Principal(s))
		}
		if a, err := mesh.ParseAPISubject(s); err == nil {
			back := mesh.APISubject(a.Tenant, a.Service, a.Verb)
			switch {
			case a.Bound != nil:
				back = a.Bound.APISubject(a.Tenant, a.Service, a.Verb, a.Node)
			case a.Node != "":
				back = mesh.APINodeSubject(a.Tenant, a.Service, a.Verb, a.Node)
			}
			require.Equal(t, s, back)
			require.Equal(t, string(a.Tenant), mesh.Principal(s))
		}
	})
}

func TestParsePackSubject(t *testing.T) {
	subject := mesh.PackEndSubject(3, "acme", pack)
	got, end, err := mesh.ParsePackSubject(subject)
	require.NoError(t, err)
	require.True(t, end)
	require.Equal(t, pack, got)
	got, end, err = mesh.ParsePackSubject(mesh.PackSubject(3, "acme", pack, 7))
	require.NoError(t, err)
	require.False(t, end)
	require.Equal(t, pack, got)
	for name, wrong := range map[string]string{
		"empty": "", "another part": strings.TrimSuffix(subject, "d"), "another family": "x" + subject, "too short": strings.Replace(subject, "0a", "", 1),
		"upper case": strings.Replace(subject, "0a", "0A", 1), "no digits": strings.Replace(subject, "0a", "0g", 1), "too long": subject + ".x",
	} {
		_, _, err := mesh.ParsePackSubject(wrong)
		require.Equal(t, mesh.CodeInvalid, mesh.CodeOf(err), name)
	}
}
