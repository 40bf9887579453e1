package mesh_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wsmesh/wsmesh/mesh"
)

func TestParseNames(t *testing.T) {
	parsers := map[string]func(string) (string, error){
		"tenant":    func(s string) (string, error) { v, err := mesh.ParseTenant(s); return string(v), err },
		"workspace": func(s string) (string, error) { v, err := mesh.ParseWorkspace(s); return string(v), err },
		"node":      func(s string) (string, error) { v, err := mesh.ParseNode(s); return string(v), err },
		"snapshot":  func(s string) (string, error) { v, err := mesh.ParseSnapshot(s); return string(v), err },
	}
	for _, c := range []struct {
		name, in string
		ok       bool
	}{
		{"one letter", "a", true},
		{"one digit", "0", true},
		{"two", "ab", true},
		{"hyphens inside", "a-b--c", true},
		{"longest", strings.Repeat("a", 40), true},
		{"longest with hyphens", "a" + strings.Repeat("-", 38) + "9", true},
		{"empty", "", false},
		{"too long", strings.Repeat("a", 41), false},
		{"very long", strings.Repeat("a", 1<<16), false},
		{"upper case", "Acme", false},
		{"dot", "a.b", false},
		{"only a dot", ".", false},
		{"space", "a b", false},
		{"leading space", " a", false},
		{"tab", "a\tb", false},
		{"trailing line break", "a\n", false},
		{"carriage return", "a\r", false},
		{"NUL", "a\x00", false},
		{"star", "*", false},
		{"rest wildcard", ">", false},
		{"wildcard inside", "a*", false},
		{"slash", "a/b", false},
		{"dot dot", "..", false},
		{"leading hyphen", "-a", false},
		{"trailing hyphen", "a-", false},
		{"only a hyphen", "-", false},
		{"underscore", "a_b", false},
		{"principal of nodes", mesh.PrincipalNode, false},
		{"principal of the operator", mesh.PrincipalAdmin, false},
		{"accent", "é", false},
		{"letter of another script", "\u0430cme", false}, // Cyrillic, looks like acme
		{"full width digit", "\uff11", false},
		{"not UTF-8", "a\xff", false},
		{"dollar", "$JS", false},
	} {
		for kind, parse := range parsers {
			t.Run(kind+"/"+c.name, func(t *testing.T) {
				got, err := parse(c.in)
				if c.ok {
					require.NoError(t, err)
					require.Equal(t, c.in, got)
					return
				}
				require.Equal(t, mesh.CodeInvalid, mesh.CodeOf(err))
				require.Contains(t, err.Error(), kind)
				require.Less(t, len(err.Error()), 500, "a hostile name does not flood the text")
			})
		}
	}
}

func TestParseEpoch(t *testing.T) {
	for _, c := range []struct {
		name, in string
		want     mesh.Epoch // 0: refused
	}{
		{"one", "1", 1},
		{"large", "18446744073709551615", 1<<64 - 1},
		{"zero", "0", 0},
		{"leading zero", "01", 0},
		{"plus", "+1", 0},
		{"minus", "-1", 0},
		{"empty", "", 0},
		{"space", " 1", 0},
		{"overflow", "18446744073709551616", 0},
		{"hex", "0x10", 0},
		{"underscore", "1_0", 0},
		{"fraction", "1.0", 0},
		{"wildcard", "*", 0},
		{"digits of another script", "\u0661", 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := mesh.ParseEpoch(c.in)
			require.Equal(t, c.want, got)
			if c.want == 0 {
				require.Equal(t, mesh.CodeInvalid, mesh.CodeOf(err))
				return
			}
			require.NoError(t, err)
			require.Equal(t, c.in, got.String(), "one epoch has one spelling")
		})
	}
}

func TestParseExecID(t *testing.T) {
	const good = "018bcfe5-6800-7abc-9def-0123456789ab"
	for _, c := range []struct {
		name, in string
		ok       bool
	}{
		{"version 7", good, true},
		{"version 1", "018bcfe5-6800-1abc-9def-0123456789ab", false},
		{"version 4", "018bcfe5-6800-4abc-9def-0123456789ab", false},
		{"version 6", "018bcfe5-6800-6abc-9def-0123456789ab", false},
		{"another variant", "018bcfe5-6800-7abc-cdef-0123456789ab", false},
		{"upper case", strings.ToUpper(good), false},
		{"braces", "{" + good + "}", false},
		{"urn", "urn:uuid:" + good, false},
		{"no hyphens", strings.ReplaceAll(good, "-", ""), false},
		{"space around", " " + good, false},
		{"line break after", good + "\n", false},
		{"cut short", good[:35], false},
		{"one more", good + "0", false},
		{"not hex", "018bcfe5-6800-7abc-9def-0123456789ag", false},
		{"dots", strings.ReplaceAll(good, "-", "."), false},
		{"all zeros", "00000000-0000-0000-0000-000000000000", false},
		{"empty", "", false},
		{"wildcard", "*", false},
		{"very long", strings.Repeat("0", 1<<16), false},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := mesh.ParseExecID(c.in)
			if c.ok {
				require.NoError(t, err)
				require.Equal(t, c.in, string(got))
				return
			}
			require.Empty(t, got)
			require.Equal(t, mesh.CodeInvalid, mesh.CodeOf(err))
			require.Less(t, len(err.Error()), 500)
		})
	}
}

func TestExecIDTime(t *testing.T) {
	require.Equal(t, int64(1700000000000), mesh.ExecID("018bcfe5-6800-7000-8000-000000000000").Time().UnixMilli())
	require.True(t, mesh.ExecID("nonsense").Time().IsZero())

	before := time.Now().Truncate(time.Millisecond)
	id := mesh.NewExecID()
	parsed, err := mesh.ParseExecID(string(id))
	require.NoError(t, err)
	require.Equal(t, id, parsed)
	require.WithinRange(t, id.Time(), before, time.Now())
	require.NotEqual(t, id, mesh.NewExecID())
}

func TestParseTokenID(t *testing.T) {
	id := mesh.NewTokenID()
	parsed, err := mesh.ParseTokenID(string(id))
	require.NoError(t, err)
	require.Equal(t, id, parsed)
	require.NotEqual(t, id, mesh.NewTokenID())
	for name, in := range map[string]string{
		"empty": "", "short": "0123456789abcde", "long": "0123456789abcdef0", "upper case": "0123456789ABCDEF",
		"not hex": "0123456789abcdeg", "dot": "01234567.9abcdef", "wildcard": ">", "line break": "0123456789abcdef\n",
	} {
		t.Run(name, func(t *testing.T) {
			got, err := mesh.ParseTokenID(in)
			require.Empty(t, got)
			require.Equal(t, mesh.CodeInvalid, mesh.CodeOf(err))
		})
	}
}

func FuzzParseIDs(f *testing.F) {
	for _, s := range []string{"a", "a.b", "*", ">", "", "a-", "1", "018bcfe5-6800-7abc-9def-0123456789ab", "0123456789abcdef"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		_, tenantErr := mesh.ParseTenant(s)
		_, epochErr := mesh.ParseEpoch(s)
		_, execErr := mesh.ParseExecID(s)
		_, tokenErr := mesh.ParseTokenID(s)
		if tenantErr == nil || epochErr == nil || execErr == nil || tokenErr == nil {
			require.NotEmpty(t, s)
			require.Empty(t, strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789-"), "%q is no single token of a subject", s)
		}
	})
}
