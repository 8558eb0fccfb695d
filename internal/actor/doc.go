// Package actor runs durable objects.
//
// While a turn that may write runs, no other turn of the same object begins:
// the input gate holds it. Turns that only read run together. Turns are
// admitted first come, first served, on the goroutine of their caller.
//
// What a turn wrote is one commit. It is applied when the turn ends, and the
// next turn begins on it at once; but no reply leaves before every commit made
// ahead of it is durable: the output gate holds it. If a commit fails, the held
// replies fail with it and the activation ends; the next call starts from what
// is stored.
//
// The package knows no network and no disk. Calls come through [Host], state
// goes through package storage, and time is that of package time.
package actor
