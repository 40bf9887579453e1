// Package auth makes and holds the keys of a mesh and signs what its users may
// do.
//
// The model is NATS operator mode: one operator, a system account, and one
// account, MESH, that all traffic of the mesh shares. Tenants are kept apart
// by subject permissions in their user JWT, not by accounts. A signing key of
// the account signs users; whoever holds it (a node) can admit users but can
// change neither the account nor the operator. What each kind of user may do
// stands in role.go and nowhere else.
//
// Guarantees: keys are made once per directory and never replaced, and a user
// that was signed without permissions by mistake can do nothing.
package auth

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"

	"github.com/wsmesh/wsmesh/mesh"
)

// Names under which the operator and the accounts appear in server logs.
const (
	operatorName  = "wsmesh"
	systemAccount = "SYS"
	meshAccount   = "MESH"
)

// Keys is everything a NATS server of the mesh needs to know whom to trust,
// and the Signer that admits users. It is immutable and safe for concurrent
// use. It holds secrets: it is never logged and never leaves the box.
type Keys struct {
	operator *jwt.OperatorClaims
	encoded  string // operator, as its JWT
	system   Account
	mesh     Account
	accounts keyPair // of the system account
	signer   *Signer
	routes   string
}

// Account is what a NATS server resolves an account by.
type Account struct {
	ID  string // public key
	JWT string // claims, signed by the operator
}

// Operator returns the claims a server trusts. The caller must not change them.
func (k *Keys) Operator() *jwt.OperatorClaims { return k.operator }

// OperatorJWT is Operator as the configuration file of a server has it.
func (k *Keys) OperatorJWT() string { return k.encoded }

// System returns the account of the servers' own traffic. It has no users but the
// operator's who tells the servers of a changed account: see Accounts.
func (k *Keys) System() Account { return k.system }

// Mesh returns the account of all users, with JetStream and no limits: the
// mesh bounds its streams itself. It names the users that are revoked.
func (k *Keys) Mesh() Account { return k.mesh }

// Accounts makes the credentials with which the operator tells the servers what Mesh is
// now, and nothing else. Each call makes new ones; nobody keeps them.
func (k *Keys) Accounts() (Creds, error) {
	s := Signer{key: k.accounts}
	return s.creds(accountsRole(string(mesh.NewTokenID()), k.mesh.ID))
}

// Signer returns the signer of users of the mesh account.
func (k *Keys) Signer() *Signer { return k.signer }

// RoutePassword returns the secret that servers of one mesh show each other.
// Without it any local process could join the cluster as a server, past every
// user permission.
func (k *Keys) RoutePassword() string { return k.routes }

// seeds is what the key file holds; the claims are made from them, so that a
// newer program can give an old mesh better claims.
type seeds struct {
	Format   int    `json:"format"`
	Operator string `json:"operator"`
	System   string `json:"system"`
	Mesh     string `json:"mesh"`
	Signer   string `json:"signer"`
}

// seedFormat is the format of the key file that this program writes.
const seedFormat = 1

func newSeeds() (seeds, error) {
	s := seeds{Format: seedFormat}
	for _, part := range []struct {
		prefix nkeys.PrefixByte
		into   *string
	}{
		{nkeys.PrefixByteOperator, &s.Operator},
		{nkeys.PrefixByteAccount, &s.System},
		{nkeys.PrefixByteAccount, &s.Mesh},
		{nkeys.PrefixByteAccount, &s.Signer},
	} {
		pair, err := nkeys.CreatePair(part.prefix)
		if err != nil {
			return seeds{}, err
		}
		seed, err := pair.Seed()
		if err != nil {
			return seeds{}, err
		}
		*part.into = string(seed)
	}
	return s, nil
}

// keyPair is a key pair with its public key.
type keyPair struct {
	nkeys.KeyPair
	public string
}

func parseSeed(name, seed string, prefix nkeys.PrefixByte) (keyPair, error) {
	kind, _, err := nkeys.DecodeSeed([]byte(seed))
	if err != nil || kind != prefix {
		return keyPair{}, mesh.Errorf(mesh.CodeInvalid, "the %s key is missing or damaged", name)
	}
	pair, err := nkeys.FromSeed([]byte(seed))
	if err != nil {
		return keyPair{}, mesh.Errorf(mesh.CodeInvalid, "the %s key is damaged", name)
	}
	public, err := pair.PublicKey()
	if err != nil {
		return keyPair{}, mesh.Errorf(mesh.CodeInvalid, "the %s key is damaged", name)
	}
	return keyPair{pair, public}, nil
}

// keys makes the claims; the error has CodeInvalid when a seed is damaged.
func (s seeds) keys(revoked []Revoked) (*Keys, error) {
	if s.Format != seedFormat {
		return nil, mesh.Errorf(mesh.CodeInvalid, "key file format %d is not one this version reads (%d)", s.Format, seedFormat)
	}
	operator, err := parseSeed("operator", s.Operator, nkeys.PrefixByteOperator)
	if err != nil {
		return nil, err
	}
	system, err := parseSeed("system account", s.System, nkeys.PrefixByteAccount)
	if err != nil {
		return nil, err
	}
	account, err := parseSeed("mesh account", s.Mesh, nkeys.PrefixByteAccount)
	if err != nil {
		return nil, err
	}
	signing, err := parseSeed("signing", s.Signer, nkeys.PrefixByteAccount)
	if err != nil {
		return nil, err
	}
	k := &Keys{accounts: system, signer: &Signer{account: account.public, key: signing}, routes: routePassword(s.Mesh)}
	if k.operator, k.encoded, err = operatorClaims(operator, system); err != nil {
		return nil, err
	}
	if k.system, err = systemClaims(operator, system); err != nil {
		return nil, err
	}
	k.mesh, err = meshClaims(operator, account, signing, revoked)
	return k, err
}

func operatorClaims(operator, system keyPair) (*jwt.OperatorClaims, string, error) {
	c := jwt.NewOperatorClaims(operator.public)
	c.Name = operatorName
	c.SystemAccount = system.public
	// Encode fills in the issuer and the version, which a server checks.
	encoded, err := c.Encode(operator)
	return c, encoded, err
}

func systemClaims(operator, system keyPair) (Account, error) {
	c := jwt.NewAccountClaims(system.public)
	c.Name = systemAccount
	encoded, err := c.Encode(operator)
	return Account{ID: system.public, JWT: encoded}, err
}

func meshClaims(operator, account, signing keyPair, revoked []Revoked) (Account, error) {
	c := jwt.NewAccountClaims(account.public)
	c.Name = meshAccount
	c.SigningKeys.Add(signing.public)
	c.Limits.JetStreamLimits = jwt.JetStreamLimits{
		MemoryStorage: jwt.NoLimit,
		DiskStorage:   jwt.NoLimit,
		Streams:       jwt.NoLimit,
		Consumer:      jwt.NoLimit,
		MaxAckPending: jwt.NoLimit,
	}
	// These apply to a user signed without any permission, which NATS would
	// otherwise let do everything.
	c.DefaultPermissions.Pub.Deny.Add(">")
	c.DefaultPermissions.Sub.Deny.Add(">")
	for _, r := range revoked {
		c.RevokeAt(r.User, r.At)
	}
	encoded, err := c.Encode(operator)
	return Account{ID: account.public, JWT: encoded}, err
}

// routePassword derives the secret, so that every server with these keys has
// the same and the key file needs no further field.
func routePassword(seed string) string {
	mac := hmac.New(sha256.New, []byte(seed))
	mac.Write([]byte("wsmesh cluster route"))
	return hex.EncodeToString(mac.Sum(nil))
}
