package chaos

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// at makes a call that was acknowledged.
func at(start, end time.Duration, c Call) Call {
	c.Start, c.End, c.Outcome = start, end, Done
	return c
}

func unknown(c Call) Call {
	c.Outcome = Unknown
	return c
}

func refused(c Call) Call {
	c.Outcome = Refused
	return c
}

func TestJudge(t *testing.T) {
	a := at(1, 2, Call{Kind: Write, Path: "f", Value: "a"})
	b := at(3, 4, Call{Kind: Write, Path: "f", Value: "b"})
	gone := at(5, 6, Call{Kind: Remove, Path: "f"})
	moved := at(5, 6, Call{Kind: Rename, Path: "f", To: "g", Value: "b"})
	beside := at(2, 5, Call{Kind: Write, Path: "f", Value: "c"}) // at the same time as b
	for name, test := range map[string]struct {
		calls []Call
		final map[string]string
		want  []string
	}{
		"the last write is there":             {[]Call{a, b}, map[string]string{"f": "b"}, nil},
		"a lost write":                        {[]Call{a, b}, map[string]string{"f": "a"}, []string{Lost}},
		"a lost first write":                  {[]Call{a}, nil, []string{Lost}},
		"either of two at the same time":      {[]Call{a, b, beside}, map[string]string{"f": "b"}, nil},
		"or the other":                        {[]Call{a, b, beside}, map[string]string{"f": "c"}, nil},
		"but not the one before":              {[]Call{a, b, beside}, map[string]string{"f": "a"}, []string{Lost}},
		"a removal":                           {[]Call{a, b, gone}, nil, nil},
		"a lost removal":                      {[]Call{a, b, gone}, map[string]string{"f": "b"}, []string{Lost}},
		"an unknown write that was done":      {[]Call{a, unknown(b)}, map[string]string{"f": "b"}, nil},
		"an unknown write that was not":       {[]Call{a, unknown(b)}, map[string]string{"f": "a"}, nil},
		"an unknown write that came late":     {[]Call{unknown(a), b}, map[string]string{"f": "a"}, nil},
		"an unknown removal":                  {[]Call{a, b, unknown(gone)}, nil, nil},
		"a refused write that was done":       {[]Call{a, refused(b)}, map[string]string{"f": "b"}, []string{Torn}},
		"a refused removal that was done":     {[]Call{a, refused(gone)}, nil, []string{Lost}},
		"a torn value":                        {[]Call{a, b}, map[string]string{"f": "ab"}, []string{Torn}},
		"a name that nobody made":             {[]Call{a}, map[string]string{"f": "a", ".tmp1": "a2"}, []string{Orphan}},
		"a rename":                            {[]Call{a, b, moved}, map[string]string{"g": "b"}, nil},
		"a rename that was done by half":      {[]Call{a, b, moved}, map[string]string{"f": "b", "g": "b"}, []string{Lost, Doubled}},
		"a lost rename":                       {[]Call{a, b, moved}, map[string]string{"f": "b"}, []string{Lost, Lost}},
		"an unknown rename that was done":     {[]Call{a, b, unknown(moved)}, map[string]string{"g": "b"}, nil},
		"an unknown rename done by half":      {[]Call{a, b, unknown(moved)}, map[string]string{"f": "b", "g": "b"}, []string{Doubled}},
		"a rename over what was there":        {[]Call{a, b, at(1, 2, Call{Kind: Write, Path: "g", Value: "x"}), moved}, map[string]string{"g": "x"}, []string{Lost}},
		"a read of what is there":             {[]Call{a, b, at(5, 6, Call{Kind: Read, Path: "f", Value: "b"})}, map[string]string{"f": "b"}, nil},
		"a read during the write":             {[]Call{a, b, at(3, 4, Call{Kind: Read, Path: "f", Value: "a"})}, map[string]string{"f": "b"}, nil},
		"a stale read":                        {[]Call{a, b, at(5, 6, Call{Kind: Read, Path: "f", Value: "a"})}, map[string]string{"f": "b"}, []string{Stale}},
		"a read of nothing after a write":     {[]Call{a, at(5, 6, Call{Kind: Read, Path: "f"})}, map[string]string{"f": "a"}, []string{Stale}},
		"a read of nothing before any write":  {[]Call{b, at(1, 2, Call{Kind: Read, Path: "f"})}, map[string]string{"f": "b"}, nil},
		"a read of what is written later":     {[]Call{b, at(1, 2, Call{Kind: Read, Path: "f", Value: "b"})}, map[string]string{"f": "b"}, []string{Torn}},
		"a read of a torn value":              {[]Call{a, at(5, 6, Call{Kind: Read, Path: "f", Value: "?"})}, map[string]string{"f": "a"}, []string{Torn}},
		"a value that went back after a read": {[]Call{a, unknown(b), at(7, 8, Call{Kind: Read, Path: "f", Value: "b"})}, map[string]string{"f": "b"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			for _, f := range Judge(test.calls, test.final) {
				got = append(got, f.Kind)
				t.Log(f)
			}
			require.Equal(t, test.want, got)
		})
	}
}
