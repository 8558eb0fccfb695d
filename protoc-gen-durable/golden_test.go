package main

import (
	"bytes"
	stdcmp "cmp"
	"flag"
	"go/ast"
	"go/format"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/cmd/protoc-gen-go/internal_gengo"
	"google.golang.org/protobuf/compiler/protogen"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/pluginpb"
)

var update = flag.Bool("update", false, "write what is generated to testdata")

// TestGolden compares what is generated for the schemas of testdata with what is
// there. Beside our own output there is that of protoc-gen-go, so that the
// packages compile; TestGenerated calls them.
func TestGolden(t *testing.T) {
	for _, name := range cases(t, false) {
		t.Run(name, func(t *testing.T) {
			req := request(t, name)
			got := output(t, req)
			for file, content := range got {
				formatted, err := format.Source([]byte(content))
				if err != nil {
					t.Fatalf("%s: %v", file, err)
				}
				if diff := cmp.Diff(content, string(formatted)); diff != "" {
					t.Errorf("%s is not as gofmt wants it:\n%s", file, diff)
				}
			}
			if diff := cmp.Diff(got, output(t, req)); diff != "" {
				t.Errorf("the second run differs:\n%s", diff)
			}
			for file, content := range got {
				checkDocs(t, file, content)
			}
			maps.Copy(got, messages(t, req))
			compare(t, filepath.Join(testdata, name), got)
		})
	}
}

// TestErrors compares what is said of the bad schemas of testdata.
func TestErrors(t *testing.T) {
	for _, name := range cases(t, true) {
		t.Run(name, func(t *testing.T) {
			res := respond(t, request(t, name))
			if len(res.GetFile()) > 0 {
				t.Errorf("%d files were generated", len(res.GetFile()))
			}
			path := filepath.Join(testdata, name, "want.err")
			got := res.GetError() + "\n"
			if *update {
				write(t, path, got)
				return
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

// TestRun covers what is no answer to a request.
func TestRun(t *testing.T) {
	for _, test := range []struct {
		name, stdin string
		args        []string
		want        string
	}{
		{"by hand", "", []string{"x.proto"}, `unknown argument "x.proto": protoc or buf runs this program`},
		{"not a request", "\xff", nil, "read the request: "},
	} {
		t.Run(test.name, func(t *testing.T) {
			var out bytes.Buffer
			err := run(strings.NewReader(test.stdin), &out, test.args)
			if err == nil || !strings.HasPrefix(err.Error(), test.want) || out.Len() > 0 {
				t.Errorf("got error %v and %d bytes", err, out.Len())
			}
		})
	}
}

// TestFeatures checks what the plugin tells compilers that it can read.
func TestFeatures(t *testing.T) {
	got := respond(t, request(t, "plain"))
	want := &pluginpb.CodeGeneratorResponse{
		SupportedFeatures: proto.Uint64(uint64(pluginpb.CodeGeneratorResponse_FEATURE_PROTO3_OPTIONAL |
			pluginpb.CodeGeneratorResponse_FEATURE_SUPPORTS_EDITIONS)),
		MinimumEdition: proto.Int32(int32(descriptorpb.Edition_EDITION_PROTO2)),
		MaximumEdition: proto.Int32(int32(descriptorpb.Edition_EDITION_2024)),
	}
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

// TestPaths checks where files go, for every way to say so.
func TestPaths(t *testing.T) {
	for _, test := range []struct{ params, want string }{
		{"", importPath + "/minimal/minimalv1/minimalv1durable/minimal.durable.go"},
		{"module=" + importPath, "minimal/minimalv1/minimalv1durable/minimal.durable.go"},
		{"paths=source_relative", "minimal/minimalv1durable/minimal.durable.go"},
		{"paths=source_relative,package_suffix=", "minimal/minimal.durable.go"},
		{"paths=source_relative,package_suffix=_objects", "minimal/minimalv1_objects/minimal.durable.go"},
		{"paths=source_relative,Mminimal/minimal.proto=example.com/carts;carts", "minimal/cartsdurable/minimal.durable.go"},
	} {
		t.Run(test.params, func(t *testing.T) {
			req := compile(t, filepath.Join(testdata, "minimal"))
			req.Parameter = proto.String(test.params)
			data, err := proto.Marshal(req)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff([]string{test.want}, slices.Collect(maps.Keys(output(t, data)))); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

func respond(t *testing.T, req []byte) *pluginpb.CodeGeneratorResponse {
	t.Helper()
	var out bytes.Buffer
	if err := run(bytes.NewReader(req), &out, nil); err != nil {
		t.Fatal(err)
	}
	res := &pluginpb.CodeGeneratorResponse{}
	if err := proto.Unmarshal(out.Bytes(), res); err != nil {
		t.Fatal(err)
	}
	return res
}

// output returns the files that the plugin generates.
func output(t *testing.T, req []byte) map[string]string {
	t.Helper()
	res := respond(t, req)
	if res.Error != nil {
		t.Fatal(res.GetError())
	}
	return contents(res)
}

// messages returns the files that protoc-gen-go generates.
func messages(t *testing.T, data []byte) map[string]string {
	t.Helper()
	req := &pluginpb.CodeGeneratorRequest{}
	if err := proto.Unmarshal(data, req); err != nil {
		t.Fatal(err)
	}
	ignore := func(string, string) error { return nil }
	plugin, err := protogen.Options{ParamFunc: ignore}.New(req)
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range plugin.Files {
		if file.Generate {
			internal_gengo.GenerateFile(plugin, file)
		}
	}
	return contents(plugin.Response())
}

func contents(res *pluginpb.CodeGeneratorResponse) map[string]string {
	files := map[string]string{}
	for _, f := range res.GetFile() {
		files[f.GetName()] = f.GetContent()
	}
	return files
}

// checkDocs checks that everything exported has a comment, in interfaces
// too.
func checkDocs(t *testing.T, file, content string) {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), file, content, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	check := func(name *ast.Ident, docs ...*ast.CommentGroup) {
		if text := stdcmp.Or(docs...).Text(); name.IsExported() && text == "" {
			t.Errorf("%s: %s has no comment", file, name)
		}
	}
	for _, decl := range f.Decls {
		switch decl := decl.(type) {
		case *ast.FuncDecl:
			check(decl.Name, decl.Doc)
		case *ast.GenDecl:
			for _, spec := range decl.Specs {
				switch spec := spec.(type) {
				case *ast.ValueSpec:
					check(spec.Names[0], spec.Doc, decl.Doc)
				case *ast.TypeSpec:
					check(spec.Name, spec.Doc, decl.Doc)
					if i, ok := spec.Type.(*ast.InterfaceType); ok {
						for _, method := range i.Methods.List {
							check(method.Names[0], method.Doc)
						}
					}
				}
			}
		}
	}
}

// compare compares the Go files below dir with got, or makes them so.
func compare(t *testing.T, dir string, got map[string]string) {
	t.Helper()
	want := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, ".go") {
			return err
		}
		data, err := os.ReadFile(path)
		name, _ := filepath.Rel(dir, path)
		want[filepath.ToSlash(name)] = string(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if !*update {
		for _, name := range slices.Sorted(maps.Keys(got)) {
			if diff := cmp.Diff(want[name], got[name]); diff != "" {
				t.Errorf("%s (-want +got)\n%s", name, diff)
			}
			delete(want, name)
		}
		for name := range want {
			t.Errorf("%s is not generated any more", name)
		}
		return
	}
	for name := range want {
		if _, ok := got[name]; !ok {
			if err := os.Remove(filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	for name, content := range got {
		if content != want[name] {
			write(t, filepath.Join(dir, name), content)
		}
	}
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o666); err != nil {
		t.Fatal(err)
	}
}
