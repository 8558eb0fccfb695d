package main

import (
	"fmt"
	"io"
	"os"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/pluginpb"

	"github.com/durable-go/durable/protoc-gen-durable/internal/model"
	"github.com/durable-go/durable/protoc-gen-durable/internal/render"
)

func main() {
	if err := run(os.Stdin, os.Stdout, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "protoc-gen-durable:", err)
		os.Exit(1)
	}
}

func run(stdin io.Reader, stdout io.Writer, args []string) error {
	if len(args) > 0 {
		return fmt.Errorf("unknown argument %q: protoc or buf runs this program", args[0])
	}
	in, err := io.ReadAll(stdin)
	if err != nil {
		return fmt.Errorf("read the request: %w", err)
	}
	out, err := generate(in)
	if err != nil {
		return err
	}
	_, err = stdout.Write(out)
	return err
}

// generate answers a CodeGeneratorRequest. Mistakes in the schema or in the
// options are part of the response.
func generate(request []byte) ([]byte, error) {
	req := &pluginpb.CodeGeneratorRequest{}
	if err := proto.Unmarshal(request, req); err != nil {
		return nil, fmt.Errorf("read the request: %w", err)
	}
	plugin, files, err := model.Load(req)
	if err != nil {
		return proto.Marshal(&pluginpb.CodeGeneratorResponse{Error: proto.String(err.Error())})
	}
	for _, file := range files {
		render.File(plugin.NewGeneratedFile(file.Name, file.ImportPath), file)
	}
	return proto.Marshal(plugin.Response())
}
