package chaos

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"time"
)

// Finding is one thing that no order of the calls explains.
type Finding struct {
	Kind string // one of the kinds below
	Path string
	Text string
}

// Kinds of findings.
const (
	Lost    = "lost"    // an acknowledged change is not there in the end
	Stale   = "stale"   // a client read what had been overwritten before it asked
	Torn    = "torn"    // a value that nobody wrote
	Orphan  = "orphan"  // a name that nobody made
	Doubled = "doubled" // one value in two places
)

// String says a finding in a line.
func (f Finding) String() string { return fmt.Sprintf("%s %s: %s", f.Kind, f.Path, f.Text) }

// forever is the end of a call that may still be done.
const forever = time.Duration(math.MaxInt64)

// Judge returns what no order of the calls explains: of what the clients read, and
// of final, which is every path that there is in the end with its value. Paths that
// no call names are orphans.
func Judge(calls []Call, final map[string]string) []Finding {
	changes := map[string][]Call{}
	for _, c := range calls {
		if c.Outcome == Refused {
			continue
		}
		if c.Outcome == Unknown {
			c.End = forever
		}
		switch c.Kind {
		case Write:
			changes[c.Path] = append(changes[c.Path], c)
		case Remove:
			c.Value = ""
			changes[c.Path] = append(changes[c.Path], c)
		case Rename:
			to := c
			to.Path = c.To
			changes[c.To] = append(changes[c.To], to)
			c.Value = ""
			changes[c.Path] = append(changes[c.Path], c)
		}
	}
	var findings []Finding
	for _, c := range calls {
		if c.Kind == Read && c.Outcome == Done {
			findings = append(findings, explain(changes[c.Path], c, Stale)...)
		}
	}
	for _, p := range slices.Sorted(maps.Keys(changes)) {
		end := Call{Kind: Read, Path: p, Value: final[p], Start: forever, End: forever}
		findings = append(findings, explain(changes[p], end, Lost)...)
	}
	return append(findings, strangers(changes, final)...)
}

// explain looks for a change that can be the last one before the value was seen.
func explain(changes []Call, seen Call, kind string) []Finding {
	// What was there before the first change is nothing, since ever.
	wrote, last := Call{End: -1}, latestBefore(changes, seen.Start)
	known := seen.Value == ""
	if known && !overwritten(wrote, last) {
		return nil
	}
	for _, c := range changes {
		if c.Value != seen.Value || c.Start > seen.End {
			continue
		}
		known, wrote = true, c
		if !overwritten(c, last) {
			return nil
		}
	}
	if !known {
		return []Finding{{Torn, seen.Path, fmt.Sprintf("it holds %.80q, which nobody wrote there before %s", seen.Value, seen.End)}}
	}
	return []Finding{{kind, seen.Path, fmt.Sprintf(
		"it holds %.80q, which was over at %s; but client %d's %s of %.80q began at %s and was acknowledged at %s",
		seen.Value, wrote.End, last.Client, last.Kind, last.Value, last.Start, last.End)}}
}

// latestBefore is the acknowledged change that began last among those that ended
// before a moment: whatever ended before it began, it has overwritten.
func latestBefore(changes []Call, moment time.Duration) (last Call) {
	last.Start = -2
	for _, c := range changes {
		if c.Outcome == Done && c.End < moment && c.Start > last.Start {
			last = c
		}
	}
	return last
}

func overwritten(wrote, last Call) bool { return wrote.End < last.Start }

// strangers are names that nobody made, and values that are in two places.
func strangers(changes map[string][]Call, final map[string]string) []Finding {
	var findings []Finding
	at := map[string]string{}
	for _, p := range slices.Sorted(maps.Keys(final)) {
		value := final[p]
		if _, ours := changes[p]; !ours {
			findings = append(findings, Finding{Orphan, p, "nobody made it"})
		}
		if other, twice := at[value]; twice && value != "" {
			findings = append(findings, Finding{Doubled, p, fmt.Sprintf("it holds %.80q, and so does %s", value, other)})
		}
		at[value] = p
	}
	return findings
}
