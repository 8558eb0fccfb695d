// Package durable gives Go programs durable objects: small pieces of state,
// each reached by a key, each served one call at a time, each with a store of
// its own.
//
// An object type is declared as a protobuf service. protoc-gen-durable turns it
// into an interface to implement, a function that registers the implementation
// and a typed stub to call it. Package server serves registered types over
// Connect, gRPC and gRPC-Web; package serve is a whole main function around it.
//
// # The model
//
// A call names an object by its key. If the object is not in memory, its
// constructor runs first; the value it returns is the activation, and its fields
// are free to cache whatever the handlers like. Then the handler runs, inside a
// turn: no other writing call of the same object runs meanwhile, and no reading
// one either. Methods declared NO_SIDE_EFFECTS get a [View] and run together
// with one another.
//
// What a turn writes through its [Tx] is committed as one unit when the handler
// returns nil. The next turn sees it at once, but no reply leaves the object
// before everything written ahead of it is durable (the output gate).
//
// An error from the handler rolls back what was written since the last commit
// point, and drops the activation if something had been written, so that memory
// never runs ahead of storage; [Keep] commits and returns the error all the
// same. A panic answers with code internal and drops the activation.
//
// A handle belongs to its turn. Afterwards, and from inside the function given
// to [Tx].Await, each of its methods returns [ErrTxDone].
package durable
