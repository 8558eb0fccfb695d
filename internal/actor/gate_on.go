//go:build !durable_no_output_gate

package actor

// outputGate holds replies until what they tell of is durable. It is only ever
// off to show that make torture finds out.
const outputGate = true
