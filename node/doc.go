// Package node hosts workspaces: it takes ownership of a workspace, serves its
// owner verbs, runs its commands, and gives it up.
//
// # Model
//
// A node holds two connections with two credentials. The door receives what
// tenants and the operator ask and may publish replies, nothing else. The store
// reads and writes streams and buckets and talks to other nodes; it never
// answers a tenant. A defect in one cannot use the rights of the other.
//
// Opening a workspace has a fixed order, and each step is acknowledged before
// the next:
//
//  1. take: compare-and-set in the owners bucket; the new revision is the epoch.
//     A crash here leaves an owner that answers no ping; the next one takes over.
//  2. fence: publish an open record expecting the last journal record, which
//     must be of a lower epoch. From here on every older owner is refused.
//     A crash here leaves a tenure without work.
//  3. settle: execs of earlier tenures without a final frame get lost. The open
//     record names them, so a crash here loses none.
//  4. serve: subscribe ws.v1.<tenant>.<workspace>.<epoch>.* on the door.
//
// A node that meets a higher epoch steps down: it kills the workspace's execs,
// answers nothing more, and touches the journal never again.
package node
