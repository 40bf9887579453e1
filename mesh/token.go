package mesh

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"strings"
	"time"
)

// TokenClaims is what a tenant token says about itself. It is read without
// checking the signature, which is the server's work: use it to find one's own
// inbox, never to decide about someone else's rights.
type TokenClaims struct {
	Tenant  Tenant
	ID      TokenID
	Bound   *Bound    // nil: the whole tenant
	Expires time.Time // zero: never
}

// ParseToken reads the claims of a tenant token. A text that is no whole token,
// and a token that is over, are CodeDenied. The text never holds the token.
func ParseToken(token string) (TokenClaims, error) {
	broken := Errorf(CodeDenied, "the token is not a whole wsmesh token; copy it again, or issue a new one with: wsmesh token issue --tenant T")
	parts := strings.Split(token, ".")
	if len(parts) != 3 || strings.ContainsAny(token, "\r\n") { // the decoder would skip line breaks
		return TokenClaims{}, broken
	}
	var decoded [3][]byte
	for i, part := range parts {
		var err error
		if decoded[i], err = base64.RawURLEncoding.DecodeString(part); err != nil {
			return TokenClaims{}, broken
		}
	}
	body, signature := decoded[1], decoded[2]
	if len(signature) != ed25519.SignatureSize {
		return TokenClaims{}, broken
	}
	var claims struct {
		Name    string `json:"name"`
		Expires int64  `json:"exp"`
	}
	if json.Unmarshal(body, &claims) != nil {
		return TokenClaims{}, broken
	}
	c, err := parseTokenName(claims.Name)
	if err != nil {
		return TokenClaims{}, broken
	}
	if claims.Expires != 0 {
		c.Expires = time.Unix(claims.Expires, 0)
		if !c.Expires.After(time.Now()) {
			return TokenClaims{}, Errorf(CodeDenied, "the token expired at %s; issue a new one with: wsmesh token issue --tenant %s", c.Expires.UTC().Format(time.RFC3339), c.Tenant)
		}
	}
	return c, nil
}

// TokenName is what a token's user is called: <tenant>/<token id>, and of a bound
// token /<workspace>/<scope> besides, escaped as in its subjects.
func TokenName(t Tenant, id TokenID, b *Bound) string {
	name := string(t) + "/" + string(id)
	if b != nil {
		name += "/" + string(b.Workspace) + "/" + EscapeScope(b.Scope)
	}
	return name
}

func parseTokenName(name string) (c TokenClaims, err error) {
	p := strings.Split(name, "/")
	if len(p) != 2 && len(p) != 4 {
		return c, Errorf(CodeInvalid, "not the name of a token")
	}
	if c.Tenant, err = ParseTenant(p[0]); err != nil {
		return c, err
	}
	if c.ID, err = ParseTokenID(p[1]); err != nil || len(p) == 2 {
		return c, err
	}
	c.Bound, err = parseBound(p[1], p[2], p[3])
	return c, err
}
