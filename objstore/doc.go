// Package objstore is the content of workspaces. Today it holds the codec of
// the journal: the ordered log of what happened to one workspace, its truth.
//
// The journal is a chain. Each record names its predecessor twice: by stream
// sequence, which is also the sequence it is published to follow, and by the
// hash of the predecessor's bytes. A reader that walks the chain notices a
// missing, foreign or altered record; a writer that is no longer the owner is
// refused by the stream, because the owner after it has published a record
// first.
package objstore
