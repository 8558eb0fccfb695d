package main

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/bufbuild/protocompile"
	"github.com/bufbuild/protocompile/linker"
	"github.com/bufbuild/protocompile/protoutil"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/pluginpb"
)

const (
	testdata   = "internal/testdata"
	importPath = "github.com/durable-go/durable/protoc-gen-durable/internal/testdata"
)

// request returns the request that a compiler would make of a case: from a
// captured one if there is a request.binpb, otherwise from its .proto files.
// Files of the case's folder include come before ours, and are not generated.
func request(t *testing.T, name string) []byte {
	t.Helper()
	dir := filepath.Join(testdata, name)
	req := &pluginpb.CodeGeneratorRequest{}
	captured, err := os.ReadFile(filepath.Join(dir, "request.binpb"))
	switch {
	case err == nil:
		if err := proto.Unmarshal(captured, req); err != nil {
			t.Fatal(err)
		}
	case errors.Is(err, fs.ErrNotExist):
		req = compile(t, dir)
	default:
		t.Fatal(err)
	}
	req.Parameter = proto.String(parameters(t, name))
	data, err := proto.MarshalOptions{Deterministic: true}.Marshal(req)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// parameters returns what the file params of a case holds, after a
// module= for its folder.
func parameters(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(testdata, name, "params"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return strings.TrimSuffix("module="+importPath+"/"+name+","+strings.TrimSpace(string(data)), ",")
}

func compile(t *testing.T, dir string) *pluginpb.CodeGeneratorRequest {
	t.Helper()
	var names []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && d.Name() == "include" {
			return filepath.SkipDir
		}
		if filepath.Ext(path) == ".proto" {
			name, _ := filepath.Rel(testdata, path)
			names = append(names, filepath.ToSlash(name))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	compiler := protocompile.Compiler{
		Resolver: protocompile.WithStandardImports(&protocompile.SourceResolver{
			ImportPaths: []string{filepath.Join(dir, "include"), testdata, "../proto"},
		}),
		SourceInfoMode: protocompile.SourceInfoStandard | protocompile.SourceInfoExtraOptionLocations,
	}
	files, err := compiler.Compile(context.Background(), names...)
	if err != nil {
		t.Fatal(err)
	}
	req := &pluginpb.CodeGeneratorRequest{FileToGenerate: names}
	seen := map[string]bool{}
	for _, file := range files {
		addFile(req, seen, file)
	}
	return req
}

// addFile adds a file after all that it imports.
func addFile(req *pluginpb.CodeGeneratorRequest, seen map[string]bool, file protoreflect.FileDescriptor) {
	if seen[file.Path()] {
		return
	}
	seen[file.Path()] = true
	for i := range file.Imports().Len() {
		imported := file.Imports().Get(i).FileDescriptor
		if f, ok := file.(linker.File); ok && f.FindImportByPath(imported.Path()) != nil {
			imported = f.FindImportByPath(imported.Path())
		}
		addFile(req, seen, imported)
	}
	req.ProtoFile = append(req.ProtoFile, protoutil.ProtoFromFileDescriptor(file))
}

// cases returns the names of the cases, of those with a want.err or of those
// without.
func cases(t *testing.T, wantErr bool) []string {
	t.Helper()
	dirs, err := os.ReadDir(testdata)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, dir := range dirs {
		_, err := os.Stat(filepath.Join(testdata, dir.Name(), "want.err"))
		if dir.IsDir() && (err == nil) == wantErr {
			names = append(names, dir.Name())
		}
	}
	if len(names) == 0 {
		t.Fatal("no cases")
	}
	return slices.Clip(names)
}
