// Package archtest holds the arrows of the module: which package may import
// which, as a table that its tests compare with `go list`. A new package brings
// its row.
package archtest
