// Package durable is how a node writes what must be there after a power cut: whole files, renames, and folders made to last.
//
// Everything that a node keeps goes through a Disk, so that a simulated one can be slow, full, or broken, and lose what was not synced when
// the power is cut. Files of libraries (the replicated log, its snapshots) are theirs to write; Disk.Write is told of each write, before it is taken
// to have happened. Reading is not its business: files are read when a node starts, from the file system.
//
// What the operating system promises, and no more, is what may be relied on: WriteFile and Create make a file's content last, SyncDir the names in
// a folder. A name that was made, changed or removed before may be as it was after a power cut, but of one folder an older change is never
// missing when a later one is there.
package durable
