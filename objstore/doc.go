// Package objstore is the content of workspaces: the codec of their journals, and
// the store of blobs, trees and commits that a journal's checkpoints name.
//
// # Content
//
// A blob is immutable bytes, named by their SHA-256. A file of up to MaxWhole
// bytes is one blob; a longer one is cut into chunks where its content says so. A
// tree is the entries of one directory with every attribute that is kept; it is
// stored as the content of that directory, so a changed file makes new trees of
// its directory and of those above it only. A commit is a root directory and what
// the next owner of the workspace must know besides; and, for people, what changed
// since the commit before it.
//
// Blobs are stored together in packs. A pack ends with its index and is named by
// the SHA-256 of its bytes. A Bucket keeps the packs of one tenant, so content is
// never shared between tenants; its drivers are jsbucket (JetStream) and RemotePacks,
// in a Remote: s3bucket (S3) or dirbucket (a directory). Package dirtree reads and
// restores directories.
//
// Everything is checked against its name when it is read: damage is an error that
// says which blob in which pack, and never other bytes.
//
// # What may be reused
//
// A Writer refers to blobs of the packs that it was opened with, and to those that
// it has stored itself; all else it stores again. A commit lists the packs that
// hold what it reaches. So a reader needs no index of all packs of a tenant: it
// reads the ends of those that the commit lists; and a pack may be collected when
// no commit or record lists it and no Writer can be about to (MaxWriterLife), without
// reading one tree. A Reader of Store.Packs finds whatever is there when no list is
// left.
//
// # How an owner uses it
//
// A record with large content, before the record is published:
//
//	w := s.Writer(base)               // base: Reader of the last commit's packs and of the records' since
//	chunks, err := w.Content(ctx, r)
//	packs, err := w.Flush(ctx)        // durable; the record carries chunks and packs
//
// A checkpoint. Each step is acknowledged before the next, and a crash between
// two leaves packs that nobody lists:
//
//	w := s.Writer(base)
//	root, err := w.Tree(ctx, items)   // packs of blobs and trees; unchanged directories are kept
//	ref, err := w.Commit(ctx, commit) // the last pack, with the commit
//	                                  // publish the checkpoint record with ref
//	                                  // purge the journal up to, not including, that record
//
// A restore: Store.CommitReader(ref) and dirtree.LoadLedger, then the records that
// follow the commit's Sequence, Number and Record, applied to the ledger, and then
// dirtree's RestoreItems of that into a new directory.
//
// A verify: Store.CommitReader(ref), then Reader.Verify of the commit's root reads
// all that it reaches; Store.CheckStored checks whole packs.
//
// # The journal
//
// The journal is a chain. Each record names its predecessor twice: by stream
// sequence, which is also the sequence it is published to follow, and by the
// hash of the predecessor's bytes. A reader that walks the chain notices a
// missing, foreign or altered record; a writer that is no longer the owner is
// refused by the stream, because the owner after it has published a record
// first. Chain reads it and checks that.
//
// Ops of files set state: what a path is now, that it is gone, or what it is
// called now. Applied once more they change nothing. The content of a small file
// travels in its op; that of a larger one is in packs, which are stored before the
// record. A record also carries what the requests behind it were answered, so that
// the next owner answers repeats; a commit carries the answers of the last minutes.
//
// # Stored formats
//
// Records, trees, commits, packs and their indexes begin with a format byte. Their
// encodings, but for records, have one spelling for one content. Records of the
// format before are still read.
package objstore
