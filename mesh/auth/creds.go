package auth

import (
	"strings"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats.go"

	"github.com/wsmesh/wsmesh/mesh"
)

// Creds are the credentials of a node's connection or of the operator: a user
// JWT and the seed that proves it is theirs.
type Creds struct {
	Name  string // "<principal>/<id>", also the name of the connection
	Inbox string // prefix of reply subjects, without the final dot
	JWT   string
	Seed  string
}

// Option makes a connection use the credentials, their inbox and their name.
func (c Creds) Option() nats.Option {
	return func(o *nats.Options) error {
		for _, set := range []nats.Option{
			nats.UserJWTAndSeed(c.JWT, c.Seed),
			nats.CustomInboxPrefix(c.Inbox),
			nats.Name(c.Name),
		} {
			if err := set(o); err != nil {
				return err
			}
		}
		return nil
	}
}

// Encode returns the content of a NATS credentials file, which other NATS
// tools read too. It is secret: write it with mode 0600.
func (c Creds) Encode() ([]byte, error) {
	return jwt.FormatUserConfig(c.JWT, []byte(c.Seed))
}

// ParseCreds is the inverse of Encode. It checks that the file is whole and
// that seed and JWT belong together, not that a mesh will accept them; the
// error has CodeInvalid.
func ParseCreds(b []byte) (Creds, error) {
	encoded, err := jwt.ParseDecoratedJWT(b)
	if err != nil {
		return Creds{}, badCreds("it holds no user JWT")
	}
	claims, err := jwt.DecodeUserClaims(encoded)
	if err != nil {
		return Creds{}, badCreds("its user JWT is damaged")
	}
	pair, err := jwt.ParseDecoratedUserNKey(b)
	if err != nil {
		return Creds{}, badCreds("it holds no user seed")
	}
	if public, err := pair.PublicKey(); err != nil || public != claims.Subject {
		return Creds{}, badCreds("its seed belongs to another user")
	}
	seed, err := pair.Seed()
	if err != nil {
		return Creds{}, badCreds("its seed is damaged")
	}
	principal, id, ok := strings.Cut(claims.Name, "/")
	if !ok || principal == "" || id == "" || strings.ContainsAny(claims.Name, ".*> \t\r\n") {
		return Creds{}, badCreds("its user was not made by wsmesh")
	}
	return Creds{Name: claims.Name, Inbox: mesh.InboxPrefix(principal, id), JWT: encoded, Seed: string(seed)}, nil
}

func badCreds(why string) *mesh.Error {
	return mesh.Errorf(mesh.CodeInvalid, "credentials file: %s; get a new one from the operator", why)
}
