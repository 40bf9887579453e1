// Package chaos is experiments with a verdict: a mesh of real processes, a
// workload whose clients write down every call, faults, and a judge who looks at
// what was written down and at what is there in the end.
//
// # Model
//
// A History is the calls of all clients, each with its start, its end and its
// outcome: done, refused (certainly without effect) or unknown. Every value that is
// ever written is another one, so a value that is found tells which call wrote it.
// A file is a register: a write sets it, a removal clears it, a rename does both.
//
// Judge says what no order of the calls explains: a value that a call wrote which
// had ended before another one began that was acknowledged (lost, or stale where a
// client had read it), a value that nobody wrote (torn), a name that nobody made
// (orphan), and one value in two places (a rename that was done by half). An unknown
// call may have happened at any time after its start, or never.
//
// The judge has tests of its own, on histories that are wrong in each of these ways:
// a judge who says yes to everything would make every experiment succeed.
package chaos
