package auth

import (
	"fmt"

	"github.com/nats-io/jwt/v2"

	"github.com/wsmesh/wsmesh/mesh"
)

// principalDoor is the principal of the connections that answer tenants and
// the operator.
const principalDoor = "_door"

// principalStreams is the principal of the tools of NATS.
const principalStreams = "_nats"

// principalAccounts is the principal of who tells the servers what an account is now.
const principalAccounts = "_accounts"

// principalGateway is the principal of a gateway's own connection.
const principalGateway = "_gateway"

// BenchStreams is how many streams the operator's credentials own for
// measurements. NATS has no wildcard inside a token, so each is named in the
// JWT; four are as many as one run needs at a time, and keep the JWT well below
// the 4 KiB that a server accepts of a connecting client.
const BenchStreams = 4

// BenchStream names measurement stream i, 0 <= i < BenchStreams: BENCH_<i>.
// Its subjects belong below "bench.".
func BenchStream(i int) string { return fmt.Sprintf("BENCH_%d", i) }

// role is what one user may do: everything not named is refused by the broker.
// There are no response permissions, since a reply subject is the requester's
// word (a request with a reply of $JS.API.… would have the responder publish
// there).
type role struct {
	principal string
	id        string
	pub       []string
	pubDeny   []string
	sub       []string
}

func (r role) name() string  { return r.principal + "/" + r.id }
func (r role) inbox() string { return mesh.InboxPrefix(r.principal, r.id) }

func (r role) permissions() jwt.Permissions {
	var p jwt.Permissions
	p.Pub.Allow.Add(r.pub...)
	p.Pub.Deny.Add(r.pubDeny...)
	p.Sub.Allow.Add(r.sub...)
	p.Sub.Allow.Add(r.inbox() + ".>")
	return p
}

// tenantRole asks and listens; it can neither answer nor touch a stream. What a
// bound token asks ends with what it is bound to, so that the node has it on the
// broker's word. Only a token of a whole workspace hears what happens in it:
// those subjects do not tell one path from another.
func tenantRole(t mesh.Tenant, id mesh.TokenID, b *mesh.Bound) role {
	r := role{principal: string(t), id: string(id)}
	switch {
	case b == nil:
		r.pub = []string{"ws.v1." + string(t) + ".>", "api.v1." + string(t) + ".>"}
		r.sub = []string{"out.v1." + string(t) + ".>", "ev.v1." + string(t) + ".>"}
	case b.Scope == ".":
		r.pub = b.Patterns(t)
		r.sub = []string{"out.v1." + string(t) + "." + string(b.Workspace) + ".>", mesh.EventSubject(t, b.Workspace)}
	default:
		r.pub = b.Patterns(t)
	}
	return r
}

// doorRole hears requests and publishes replies, except into the inboxes of
// nodes: an answer forged there could pass for JetStream's.
func doorRole(id string) role {
	return role{
		principal: principalDoor,
		id:        id,
		pub:       []string{"_INBOX.>"},
		pubDeny:   []string{"_INBOX." + mesh.PrincipalNode + ".>"},
		sub:       []string{"ws.v1.>", "api.v1.>", "admin.v1.>"},
	}
}

// storeRole reads and writes the streams and talks to other nodes; it never
// hears a tenant and cannot publish into a tenant's inbox. $JS.FC answers the
// flow control of watchers, which stall without it; DIRECT reads packs and
// journals: no other stream allows it.
func storeRole(id string) role {
	return role{
		principal: mesh.PrincipalNode,
		id:        id,
		pub: []string{
			"int.v1.>", "$KV.>", "$JS.ACK.>", "$JS.FC.>",
			"node.v1.>", "_INBOX." + mesh.PrincipalNode + ".>",
			// What nodes ask of JetStream, and of any stream: NATS has no wildcard inside a
			// token. None alters, deletes, copies or moves a stream.
			"$JS.API.STREAM.CREATE.*", "$JS.API.STREAM.INFO.*", "$JS.API.STREAM.PURGE.*",
			"$JS.API.STREAM.MSG.GET.*", "$JS.API.STREAM.MSG.DELETE.*", "$JS.API.DIRECT.GET.*", "$JS.API.DIRECT.GET.*.int.v1.pack.>",
			"$JS.API.CONSUMER.CREATE.>", "$JS.API.CONSUMER.INFO.*.*", "$JS.API.CONSUMER.DELETE.*.*", "$JS.API.CONSUMER.MSG.NEXT.*.*",
		},
		sub: []string{"node.v1.>"},
	}
}

// streamsRole is for the tools of NATS in the operator's hands: it reads, writes, moves
// and deletes any stream. No part of a mesh has it.
func streamsRole(id string) role {
	r := role{principal: principalStreams, id: id}
	r.pub = []string{"int.v1.>", "$KV.>", "$JS.API.>", "$JS.ACK.>", "$JS.FC.>", r.inbox() + ".>"}
	return r
}

// gatewayRole is connected and nothing else: a gateway works with its callers' tokens,
// and wants to know whether there is a mesh to pass them to.
func gatewayRole(id string) role {
	return role{principal: principalGateway, id: id, pubDeny: []string{">"}}
}

// accountsRole is a user of the system account who changes account, and hears what the
// servers say to that.
func accountsRole(id, account string) role {
	return role{principal: principalAccounts, id: id, pub: []string{UpdateSubject(account)}}
}

// UpdateSubject is where the servers take the JWT of an account that has changed. Each
// answers.
func UpdateSubject(account string) string { return "$SYS.REQ.ACCOUNT." + account + ".CLAIMS.UPDATE" }

// adminRole asks nodes on behalf of the operator and measures on streams of
// its own. It keeps a measurement from touching the mesh's streams by accident;
// it does not bind the operator, who may give a stream of his any source.
func adminRole(id string) role {
	r := role{principal: mesh.PrincipalAdmin, id: id, sub: []string{"bench.>"}}
	r.pub = []string{"admin.v1.>", "bench.>", "$JS.API.INFO", r.inbox() + ".>"}
	for i := range BenchStreams {
		s := BenchStream(i)
		r.pub = append(
			r.pub,
			"$JS.API.STREAM.*."+s, // create, update, info, purge, delete
			"$JS.API.STREAM.MSG.*."+s,
			"$JS.API.DIRECT.GET."+s,
			"$JS.API.DIRECT.GET."+s+".>",
			"$JS.API.CONSUMER.*."+s+".>", // create, info, delete
			"$JS.API.CONSUMER.MSG.NEXT."+s+".>",
			"$JS.ACK."+s+".>",
			"$JS.FC."+s+".>",
		)
	}
	return r
}
