package auth

import (
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"

	"github.com/wsmesh/wsmesh/mesh"
)

// DefaultTokenSubs bounds the subscriptions of one connection of a tenant.
// A client needs one for its replies and one per exec or workspace it follows;
// a thousand followed at once is a gateway's share of one tenant, and bounds
// what a hostile one can make a server remember.
const DefaultTokenSubs = 1000

// TagGeneration starts the tag of a token's JWT that carries the generation of
// its tenant: "generation:<n>".
const TagGeneration = "generation:"

// connectionTypes are those of our own clients: over TCP and, in one process,
// over a pipe. Leaf nodes, MQTT and WebSocket are refused.
var connectionTypes = jwt.StringList{jwt.ConnectionTypeStandard, jwt.ConnectionTypeInProcess}

// Signer signs users of the mesh account; it is what a node holds. It is
// immutable and safe for concurrent use.
type Signer struct {
	account string
	key     keyPair
}

// Door makes the credentials of the connection on which node answers tenants
// and the operator. Each call makes new ones, with an inbox of their own.
func (s *Signer) Door(node mesh.Node) (Creds, error) { return s.creds(doorRole(nodeID(node))) }

// Store makes the credentials of the connection on which node reads and writes
// streams and talks to other nodes. Each call makes new ones.
func (s *Signer) Store(node mesh.Node) (Creds, error) { return s.creds(storeRole(nodeID(node))) }

// Admin makes the operator's credentials. They do not expire.
func (s *Signer) Admin() (Creds, error) { return s.creds(adminRole(string(mesh.NewTokenID()))) }

// Streams makes the credentials with which the operator has all of the mesh's streams
// in his hands, for the tools of NATS. They do not expire.
func (s *Signer) Streams() (Creds, error) { return s.creds(streamsRole(string(mesh.NewTokenID()))) }

// Gateway makes the credentials of a gateway's own connection, which may do nothing.
// They do not expire.
func (s *Signer) Gateway() (Creds, error) { return s.creds(gatewayRole(string(mesh.NewTokenID()))) }

// nodeID starts with the node's name, which a server's log then shows, and is
// fresh, so that a restarted node does not hear replies to its predecessor.
func nodeID(node mesh.Node) string { return string(node) + "-" + string(mesh.NewTokenID()) }

func (s *Signer) creds(r role) (Creds, error) {
	user, err := newUser()
	if err != nil {
		return Creds{}, fmt.Errorf("sign %s: %w", r.name(), err)
	}
	seed, err := user.Seed()
	if err != nil {
		return Creds{}, fmt.Errorf("sign %s: %w", r.name(), err)
	}
	encoded, err := s.sign(s.claims(r, user.public))
	if err != nil {
		return Creds{}, err
	}
	return Creds{Name: r.name(), Inbox: r.inbox(), JWT: encoded, Seed: string(seed)}, nil
}

// TokenSpec says what token to issue.
type TokenSpec struct {
	Tenant     mesh.Tenant
	Generation uint64         // of the tenant; a removed tenant's name comes back with another one
	Workspace  mesh.Workspace // the only one that the token reaches; "": all of the tenant
	Scope      string         // the only path of Workspace that it reaches; "": all of it
	TTL        time.Duration  // 0 is no expiry; rounded up to whole seconds
}

// Token is an issued token and what is recorded about it; the JWT alone is the
// secret that the tenant holds.
type Token struct {
	ID         mesh.TokenID
	User       string // public key, by which it is revoked
	Tenant     mesh.Tenant
	Generation uint64
	Bound      *mesh.Bound // nil: the whole tenant
	JWT        string
	Issued     time.Time
	Expires    time.Time // zero is never
}

// Tenant issues a bearer token: whoever has it may use it, from any number of
// connections, all with the same inbox. The error has CodeInvalid for a bad
// tenant or workspace name, a scope that cannot be one, or a negative TTL; and
// CodeTooLarge for a scope over mesh.MaxBoundScope.
func (s *Signer) Tenant(spec TokenSpec) (Token, error) {
	if _, err := mesh.ParseTenant(string(spec.Tenant)); err != nil {
		return Token{}, err
	}
	if spec.TTL < 0 {
		return Token{}, mesh.Errorf(mesh.CodeInvalid, "a token's ttl of %v is negative; use 0 for no expiry", spec.TTL)
	}
	id := mesh.NewTokenID()
	bound, err := spec.bound(id)
	if err != nil {
		return Token{}, err
	}
	r := tenantRole(spec.Tenant, id, bound)
	user, err := newUser()
	if err != nil {
		return Token{}, fmt.Errorf("sign %s: %w", r.name(), err)
	}
	c := s.claims(r, user.public)
	c.Name = mesh.TokenName(spec.Tenant, id, bound)
	c.BearerToken = true
	c.Limits.Subs = DefaultTokenSubs
	c.Limits.Payload = mesh.MaxPayload
	c.Tags.Add(TagGeneration + strconv.FormatUint(spec.Generation, 10))
	token := Token{ID: id, User: user.public, Tenant: spec.Tenant, Generation: spec.Generation, Bound: bound}
	if spec.TTL > 0 {
		token.Expires = time.Now().Add(spec.TTL + time.Second - 1).Truncate(time.Second)
		c.Expires = token.Expires.Unix()
	}
	token.JWT, err = s.sign(c)
	token.Issued = time.Unix(c.IssuedAt, 0)
	return token, err
}

// bound is what token id of the spec is tied to; nil is the whole tenant.
func (spec *TokenSpec) bound(id mesh.TokenID) (*mesh.Bound, error) {
	if spec.Workspace == "" && spec.Scope == "" {
		return nil, nil
	}
	if spec.Workspace == "" {
		return nil, mesh.Errorf(mesh.CodeInvalid, "a token's scope is a path of one workspace: name the workspace too")
	}
	if _, err := mesh.ParseWorkspace(string(spec.Workspace)); err != nil {
		return nil, err
	}
	scope, err := mesh.ParseScope("", spec.Scope)
	if err != nil {
		return nil, err
	}
	if n := len(mesh.EscapeScope(scope)); n > mesh.MaxBoundScope {
		return nil, mesh.Errorf(mesh.CodeTooLarge, "a token's scope of %d bytes (percent-encoded) is longer than %d", n, mesh.MaxBoundScope)
	}
	return &mesh.Bound{Token: id, Workspace: spec.Workspace, Scope: scope}, nil
}

func (s *Signer) claims(r role, user string) *jwt.UserClaims {
	c := jwt.NewUserClaims(user)
	c.Name = r.name()
	c.IssuerAccount = s.account // "": it is the account's own key
	c.Permissions = r.permissions()
	c.AllowedConnectionTypes = connectionTypes
	return c
}

func (s *Signer) sign(c *jwt.UserClaims) (string, error) {
	encoded, err := c.Encode(s.key)
	if err != nil {
		return "", fmt.Errorf("sign %s: %w", c.Name, err)
	}
	return encoded, nil
}

func newUser() (keyPair, error) {
	pair, err := nkeys.CreateUser()
	if err != nil {
		return keyPair{}, err
	}
	public, err := pair.PublicKey()
	return keyPair{pair, public}, err
}
