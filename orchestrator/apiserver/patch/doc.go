// Package patch changes objects as patches say, and notes which manager set which field.
//
// # Model
//
// A Patcher does so for one kind. JSON, merge and strategic merge patches are applied to the object's JSON; server-side
// apply and the notes are structured-merge-diff's, through apimachinery's field manager. The types of fields (which lists
// are maps or sets) come from a TypeConverter, which is asked for when the first object is written.
//
// # Concurrency
//
// A Patcher may be used by many goroutines. What it is given is never changed.
package patch
