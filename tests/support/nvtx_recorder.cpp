// Writes down the NVTX events of a process, as Nsight Systems would be told them.
//
// NVTX loads this library where NVTX_INJECTION64_PATH names it. Every event is one JSON object on a
// line of its own in the file that NVTX_RECORDER_LOG names:
//
//   {"pid", "thread", "kind": push|pop|start|end|mark, "domain", "name", "range"}
//
// `thread` is the kernel's number of the thread, `name` is empty for pop and end, and `range` is
// what start returned and end was given, else 0. Heard are the functions that take a domain (the
// default one has no name), with names of 8-bit characters.
//
// A line is a single write to a file opened for appending, so that those of several threads and
// processes do not mix and none is lost where a process is killed.

#include <fcntl.h>
#include <nvtx3/nvToolsExt.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <string>

// What NVTX's handles point to is up to the tool. These live as long as the process.
struct nvtxDomainRegistration_st {
  std::string name;
};
struct nvtxStringRegistration_st {
  std::string text;
};

namespace {

std::string quoted(const std::string& text) {
  std::string json = "\"";
  for (char c : text) {
    if (c == '"' || c == '\\') json += '\\';
    json += c;
  }
  return json + '"';
}

std::string message_of(const nvtxEventAttributes_t* event) {
  switch (event->messageType) {
    case NVTX_MESSAGE_TYPE_ASCII:
      return event->message.ascii;
    case NVTX_MESSAGE_TYPE_REGISTERED:
      return event->message.registered->text;
    default:
      return "";
  }
}

void record(const char* kind, nvtxDomainHandle_t domain, const std::string& name,
            nvtxRangeId_t range = 0) {
  static const int log = [] {
    const char* path = std::getenv("NVTX_RECORDER_LOG");
    return path ? open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644) : -1;
  }();
  const std::string line = "{\"pid\":" + std::to_string(getpid()) +
                           ",\"thread\":" + std::to_string(syscall(SYS_gettid)) + ",\"kind\":\"" +
                           kind + "\",\"domain\":" + quoted(domain ? domain->name : "") +
                           ",\"name\":" + quoted(name) + ",\"range\":" + std::to_string(range) +
                           "}\n";
  if (write(log, line.data(), line.size()) != static_cast<ssize_t>(line.size())) std::abort();
}

nvtxDomainHandle_t create_domain(const char* name) { return new nvtxDomainRegistration_st{name}; }

nvtxStringHandle_t register_string(nvtxDomainHandle_t, const char* text) {
  return new nvtxStringRegistration_st{text};
}

int push(nvtxDomainHandle_t domain, const nvtxEventAttributes_t* event) {
  record("push", domain, message_of(event));
  return 0;
}

int pop(nvtxDomainHandle_t domain) {
  record("pop", domain, "");
  return 0;
}

nvtxRangeId_t start(nvtxDomainHandle_t domain, const nvtxEventAttributes_t* event) {
  static std::atomic<nvtxRangeId_t> last{0};
  const nvtxRangeId_t range = ++last;
  record("start", domain, message_of(event), range);
  return range;
}

void end(nvtxDomainHandle_t domain, nvtxRangeId_t range) { record("end", domain, "", range); }

void mark(nvtxDomainHandle_t domain, const nvtxEventAttributes_t* event) {
  record("mark", domain, message_of(event));
}

}  // namespace

// Called once by every library in the process that carries NVTX, each with a table of its own.
extern "C" int InitializeInjectionNvtx2(NvtxGetExportTableFunc_t export_table) {
  const auto* callbacks =
      static_cast<const NvtxExportTableCallbacks*>(export_table(NVTX_ETID_CALLBACKS));
  NvtxFunctionTable table = nullptr;
  unsigned int size = 0;
  if (!callbacks ||
      !callbacks->GetModuleFunctionTable(NVTX_CB_MODULE_CORE2, &table, &size) ||
      size <= NVTX_CBID_CORE2_DomainCreateA) {
    return 0;
  }
  const auto listen = [table](NvtxCallbackIdCore2 id, auto* function) {
    *table[id] = reinterpret_cast<NvtxFunctionPointer>(function);
  };
  listen(NVTX_CBID_CORE2_DomainCreateA, create_domain);
  listen(NVTX_CBID_CORE2_DomainRegisterStringA, register_string);
  listen(NVTX_CBID_CORE2_DomainRangePushEx, push);
  listen(NVTX_CBID_CORE2_DomainRangePop, pop);
  listen(NVTX_CBID_CORE2_DomainRangeStartEx, start);
  listen(NVTX_CBID_CORE2_DomainRangeEnd, end);
  listen(NVTX_CBID_CORE2_DomainMarkEx, mark);
  return 1;
}
