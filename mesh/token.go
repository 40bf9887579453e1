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
	tenant, id, _ := strings.Cut(claims.Name, "/")
	t, err := ParseTenant(tenant)
	if err != nil {
		return TokenClaims{}, broken
	}
	tid, err := ParseTokenID(id)
	if err != nil {
		return TokenClaims{}, broken
	}
	c := TokenClaims{Tenant: t, ID: tid}
	if claims.Expires != 0 {
		c.Expires = time.Unix(claims.Expires, 0)
		if !c.Expires.After(time.Now()) {
			return TokenClaims{}, Errorf(CodeDenied, "the token expired at %s; issue a new one with: wsmesh token issue --tenant %s", c.Expires.UTC().Format(time.RFC3339), t)
		}
	}
	return c, nil
}
