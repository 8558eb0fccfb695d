// Package protos holds the schema files that users of the module import, for
// tools that hand them out.
package protos

import _ "embed"

// OptionsPath is where the import statement of a schema looks for [Options].
const OptionsPath = "durable/v1/options.proto"

// Options is the file durable/v1/options.proto: the options that turn a protobuf
// service into a durable object.
//
//go:embed durable/v1/options.proto
var Options string
