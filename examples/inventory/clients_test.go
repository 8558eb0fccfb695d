package main

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/bufbuild/protocompile"
	gocmp "github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/pluginpb"

	"github.com/durable-go/durable/serve"
)

// TestClients runs the programs in the folders client and ts against a server on
// a loopback port. Both print what testdata/scenario.txt has.
func TestClients(t *testing.T) {
	if testing.Short() {
		t.Skip("builds and runs programs")
	}
	url := start(t)
	want, err := os.ReadFile(filepath.Join("testdata", "scenario.txt"))
	if err != nil {
		t.Fatal(err)
	}
	t.Run("go", func(t *testing.T) {
		program := filepath.Join(t.TempDir(), "client")
		run(t, "", nil, "go", "build", "-buildvcs=false", "-o", program, "./client")
		got := run(t, "", nil, program, "--url", url, "--warehouse", "go")
		if diff := gocmp.Diff(string(want), string(got)); diff != "" {
			t.Errorf("-want +got:\n%s", diff)
		}
	})
	t.Run("ts", func(t *testing.T) {
		dir := project(t)
		t.Run("scenario", func(t *testing.T) {
			run(t, dir, nil, "node", filepath.Join("node_modules", "typescript", "bin", "tsc"))
			scenario := filepath.Join("dist", "scenario.js")
			got := run(t, dir, nil, "node", scenario, url, "ts")
			if diff := gocmp.Diff(string(want), string(got)); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
			// In a warehouse that is in use the answers are others.
			var exit *exec.ExitError
			if err := exec.Command("node", filepath.Join(dir, scenario), url, "ts").Run(); !errors.As(err, &exit) {
				t.Errorf("with wrong answers: %v, want an exit code", err)
			}
		})
		t.Run("generated", func(t *testing.T) {
			for name, want := range generated(t, dir) {
				got, err := os.ReadFile(filepath.Join("ts", "gen", name))
				if err != nil || !bytes.Equal(got, want) {
					t.Errorf("ts/gen/%s is not what protoc-gen-es makes (%v): npm run generate, in the folder ts, renews it", name, err)
				}
			}
		})
	})
}

// start runs the server of this example and returns its address.
func start(t *testing.T) string {
	t.Helper()
	out, in, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	data := t.TempDir() // removed after the server has ended
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- serve.Run(ctx, "inventory", []string{"--listen", "127.0.0.1:0", "--data", data, "--log-level", "warn"}, in, os.Stderr, register)
		in.Close()
	}()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		out.Close()
	})
	buf := make([]byte, 4096) // the hints after the first line fit into the pipe
	n, err := out.Read(buf)
	if err != nil {
		t.Fatalf("the server did not start: %v", err)
	}
	_, rest, _ := strings.Cut(string(buf[:n]), "serves ")
	url, _, _ := strings.Cut(rest, " ")
	return url
}

// project returns a copy of the folder ts with its packages: those that are
// installed in it, or else those that npm can get. Without node or the packages
// it skips the test.
func project(t *testing.T) string {
	t.Helper()
	for _, name := range []string{"node", "npm"} {
		if _, err := exec.LookPath(name); err != nil {
			t.Skipf("%s is not installed, and the TypeScript client needs it", name)
		}
	}
	version := strings.TrimSpace(string(run(t, "", nil, "node", "--version")))
	major, _, _ := strings.Cut(strings.TrimPrefix(version, "v"), ".")
	if n, err := strconv.Atoi(major); err != nil || n < 20 {
		t.Skipf("node is %s, and the TypeScript client needs 20 or later", version)
	}
	dir := t.TempDir()
	for _, name := range []string{"package.json", "package-lock.json", "tsconfig.json", "scenario.ts"} {
		text, err := os.ReadFile(filepath.Join("ts", name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.CopyFS(filepath.Join(dir, "gen"), os.DirFS(filepath.Join("ts", "gen"))); err != nil {
		t.Fatal(err)
	}
	installed, err := filepath.Abs(filepath.Join("ts", "node_modules"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(installed); err == nil {
		if err := os.Symlink(installed, filepath.Join(dir, "node_modules")); err != nil {
			t.Fatal(err)
		}
		return dir
	} else if !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	install := exec.Command("npm", "ci", "--prefer-offline", "--no-audit", "--no-fund", "--ignore-scripts", "--fetch-retries=0", "--loglevel=error")
	install.Dir = dir
	if out, err := install.CombinedOutput(); bytes.Contains(out, []byte("EUSAGE")) {
		t.Fatalf("npm ci: package.json and package-lock.json do not agree\n%s", out)
	} else if err != nil {
		t.Skipf("npm cannot get the packages of the TypeScript client: %v\n%s", err, out)
	}
	return dir
}

// generated returns what protoc-gen-es makes of the schema, by file.
func generated(t *testing.T, dir string) map[string][]byte {
	t.Helper()
	compiler := protocompile.Compiler{
		Resolver: protocompile.WithStandardImports(&protocompile.SourceResolver{
			ImportPaths: []string{"proto", filepath.Join("..", "..", "proto")},
		}),
		SourceInfoMode: protocompile.SourceInfoStandard,
	}
	schema := "inventory/v1/inventory.proto"
	compiled, err := compiler.Compile(t.Context(), schema)
	if err != nil {
		t.Fatal(err)
	}
	req := &pluginpb.CodeGeneratorRequest{
		FileToGenerate: []string{"durable/v1/options.proto", schema},
		Parameter:      proto.String("target=ts,import_extension=js"),
	}
	var add func(protoreflect.FileDescriptor)
	add = func(file protoreflect.FileDescriptor) { // what it imports comes first
		for i := range file.Imports().Len() {
			add(file.Imports().Get(i).FileDescriptor)
		}
		if !slices.ContainsFunc(req.ProtoFile, func(f *descriptorpb.FileDescriptorProto) bool { return f.GetName() == file.Path() }) {
			req.ProtoFile = append(req.ProtoFile, protodesc.ToFileDescriptorProto(file))
		}
	}
	add(compiled[0])
	in, err := proto.Marshal(req)
	if err != nil {
		t.Fatal(err)
	}
	var res pluginpb.CodeGeneratorResponse
	plugin := filepath.Join("node_modules", "@bufbuild", "protoc-gen-es", "bin", "protoc-gen-es")
	if err := proto.Unmarshal(run(t, dir, in, "node", plugin), &res); err != nil || res.Error != nil {
		t.Fatalf("protoc-gen-es: %v, %s", err, res.GetError())
	}
	if len(res.GetFile()) != len(req.GetFileToGenerate()) {
		t.Fatalf("protoc-gen-es made %d files", len(res.GetFile()))
	}
	files := map[string][]byte{}
	for _, f := range res.GetFile() {
		files[f.GetName()] = []byte(f.GetContent())
	}
	return files
}

// run runs a program in a folder and returns what it prints.
func run(t *testing.T, dir string, stdin []byte, name string, args ...string) []byte {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir = dir
	cmd.Stdin = bytes.NewReader(stdin)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s%s", name, strings.Join(args, " "), err, out, stderr.Bytes())
	}
	return out
}
