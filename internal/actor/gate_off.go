//go:build durable_no_output_gate

package actor

const outputGate = false
