package main

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
)

// skip allows one test to skip.
type skip struct{ pkg, test string }

// conditions are the machines an entry of the list may be limited to. What a
// run promised to have (WSMESH_REQUIRE) is for the tests to check: they fail
// then, and never get here.
var conditions = map[string]func() bool{
	"always":   func() bool { return true },
	"not-root": func() bool { return os.Geteuid() != 0 },
	"no-bwrap": func() bool {
		return exec.Command("bwrap", "--unshare-all", "--ro-bind", "/", "/", "true").Run() != nil
	},
}

// readSkips reads the entries of a list that apply on this machine. No name is
// an empty list.
func readSkips(name string) ([]skip, error) {
	if name == "" {
		return nil, nil
	}
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	var list []skip
	for i, line := range strings.Split(string(text), "\n") {
		fields := strings.Fields(line)
		if len(fields) == 0 || strings.HasPrefix(fields[0], "#") {
			continue
		}
		if len(fields) < 4 {
			return nil, fmt.Errorf("%s:%d: want PACKAGE TEST WHEN REASON", name, i+1)
		}
		applies, err := appliesHere(fields[2])
		if err != nil {
			return nil, fmt.Errorf("%s:%d: %w", name, i+1, err)
		}
		if applies {
			list = append(list, skip{pkg: fields[0], test: fields[1]})
		}
	}
	return list, nil
}

func appliesHere(when string) (bool, error) {
	applies := false
	for w := range strings.SplitSeq(when, ",") {
		holds, ok := conditions[w]
		if !ok {
			return false, fmt.Errorf("unknown condition %q", w)
		}
		applies = applies || holds()
	}
	return applies, nil
}

// modulePath is what packages are named relative to.
const modulePath = "github.com/wsmesh/wsmesh"

func isAllowed(allowed []skip, r *result) bool {
	pkg := "."
	if r.pkg != modulePath {
		pkg = strings.TrimPrefix(r.pkg, modulePath+"/")
	}
	for _, a := range allowed {
		if strings.TrimPrefix(a.pkg, "./") == pkg && a.test == r.name {
			return true
		}
	}
	return false
}
