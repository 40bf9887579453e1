package auth

import (
	"encoding/json"
	"time"

	"github.com/nats-io/nkeys"

	"github.com/wsmesh/wsmesh/mesh"
)

// NodeCreds is what the nodes of a mesh are given: all of them the same. It is as
// secret as the key file: with it one can be any user of the mesh, though no server
// of it.
type NodeCreds struct {
	Signer  *Signer
	Storage mesh.Storage
	First   FirstToken // zero for none
}

// FirstToken is a token that was issued before there was a mesh. The first node of
// it makes the tenant and records the token.
type FirstToken struct {
	Tenant mesh.Tenant  `json:"tenant"`
	ID     mesh.TokenID `json:"id"`
	User   string       `json:"user"` // public key
	Issued time.Time    `json:"issued"`
}

// FirstGeneration is the generation of the first tenant of a mesh.
const FirstGeneration = 1

// nodeFile is the file of NodeCreds.
type nodeFile struct {
	Format   int        `json:"format"`
	Account  string     `json:"account"`
	Signer   string     `json:"signer"`
	Shards   int        `json:"shards"`
	Replicas int        `json:"replicas"`
	First    FirstToken `json:"first,omitzero"`
}

// nodeFormat is the format of the file that this program writes.
const nodeFormat = 1

// Encode returns the content of a node's credentials file: write it with mode 0600.
func (c *NodeCreds) Encode() ([]byte, error) {
	seed, err := c.Signer.key.Seed()
	if err != nil {
		return nil, err
	}
	raw, err := json.MarshalIndent(nodeFile{
		Format: nodeFormat, Account: c.Signer.account, Signer: string(seed),
		Shards: c.Storage.Shards, Replicas: c.Storage.Replicas, First: c.First,
	}, "", "  ")
	return append(raw, '\n'), err
}

// ParseNodeCreds is the inverse of Encode. The error has CodeInvalid, and does not
// quote the file.
func ParseNodeCreds(b []byte) (*NodeCreds, error) {
	var f nodeFile
	if json.Unmarshal(b, &f) != nil {
		return nil, badNodeCreds("it is not the node.creds that wsmesh init has written")
	}
	if f.Format != nodeFormat {
		return nil, badNodeCreds("it is of another version of wsmesh")
	}
	if !nkeys.IsValidPublicAccountKey(f.Account) || f.Shards < 1 || f.Replicas < 1 {
		return nil, badNodeCreds("it is damaged")
	}
	key, err := parseSeed("signing", f.Signer, nkeys.PrefixByteAccount)
	if err != nil {
		return nil, badNodeCreds(mesh.AsError(err).Text)
	}
	return &NodeCreds{
		Signer: &Signer{account: f.Account, key: key}, First: f.First,
		Storage: mesh.Storage{Shards: f.Shards, Replicas: f.Replicas},
	}, nil
}

func badNodeCreds(why string) *mesh.Error {
	return mesh.Errorf(mesh.CodeInvalid, "credentials of a node: %s; get the file from the operator again", why)
}
