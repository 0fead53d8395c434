#define _POSIX_C_SOURCE 200809L
#include "output.h"
#include "system.h"

#if !defined(CDR_NO_POSIX)
#include "errors.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

enum { LINKS = 40, ATTEMPTS = 100 };

/* Where a path's last name begins. */
static size_t folder_size(const char *path)
{
  const char *slash = strrchr(path, '/');
  return slash ? (size_t)(slash - path) + 1 : 0;
}

static int begins(const char *text, const char *with) { return strncmp(text, with, strlen(with)) == 0; }

/* Follows the links of output->path.  One of /proc is an open file, whatever it says: *descriptor is 1. */
static int follow(cdr_output *output, int *descriptor)
{
  char *path = output->path;
  for (int n = 0; n < LINKS; n++) {
    char link[CDR_LONGEST_OUTPUT];
    ssize_t size = readlink(path, link, sizeof link - 1);
    if (size < 0) return CDR_OK; /* no link, or nothing there yet */
    link[size] = 0;
    *descriptor = begins(path, "/proc/") || begins(path, "/dev/fd/");
    if (*descriptor) return CDR_OK;
    size_t folder = link[0] == '/' ? 0 : folder_size(path);
    if (folder + (size_t)size >= CDR_LONGEST_OUTPUT) return CDR_PATH_TOO_LONG;
    memcpy(path + folder, link, (size_t)size + 1);
  }
  return CDR_CANNOT_WRITE;
}

static int is_standard(const struct stat *about)
{
  struct stat other;
  for (int fd = 1; fd <= 2; fd++)
    if (fstat(fd, &other) == 0 && other.st_dev == about->st_dev && other.st_ino == about->st_ino) return 1;
  return 0;
}

/* A part is locked by its writer, and no lock outlives its process. */
static int is_left(const char *part)
{
  int fd = open(part, O_WRONLY | O_NOFOLLOW | O_NONBLOCK);
  int left = fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) == 0;
  if (fd >= 0) close(fd);
  return left;
}

/* Removes what a process that was killed left. */
static void sweep(const cdr_output *output)
{
  char path[CDR_LONGEST_OUTPUT];
  size_t folder = folder_size(output->path), size = strlen(output->path + folder);
  memcpy(path, output->path, folder);
  strcpy(path + folder, folder ? "" : ".");
  DIR *all = opendir(path);
  for (struct dirent *one; all && (one = readdir(all)) != NULL;) {
    char *end, *name = one->d_name;
    if (name[0] != '.' || strncmp(name + 1, output->path + folder, size) != 0 || name[1 + size] != '.') continue;
    long process = strtol(name + size + 2, &end, 10);
    if (process <= 0 || !strstr(end, "part") || kill((pid_t)process, 0) == 0 || errno != ESRCH) continue;
    if (snprintf(path + folder, sizeof path - folder, "%s", name) >= (int)(sizeof path - folder)) continue;
    if (is_left(path)) unlink(path);
  }
  if (all) closedir(all);
}

/* Threads of a process may write to one path: the last one's file stays. */
static int open_part(cdr_output *output)
{
  size_t folder = folder_size(output->path);
  int head = (int)folder;
  sweep(output);
  for (int n = 0; n < ATTEMPTS; n++) {
    int size = snprintf(output->part, CDR_LONGEST_OUTPUT, "%.*s.%s.%ld.%d.part", head, output->path,
                        output->path + folder, (long)getpid(), n);
    if (size < 0 || size >= CDR_LONGEST_OUTPUT) return CDR_PATH_TOO_LONG;
    output->fd = open(output->part, O_WRONLY | O_CREAT | O_EXCL, 0666);
    if (output->fd >= 0) {
      (void)flock(output->fd, LOCK_EX | LOCK_NB);
      return CDR_OK;
    }
    if (errno != EEXIST) break;
  }
  return CDR_CANNOT_WRITE;
}

int cdr_output_open(cdr_output *output, const char *path)
{
  struct stat about;
  int descriptor = 0, there, code;
  if (strlen(path) >= CDR_LONGEST_OUTPUT) return CDR_PATH_TOO_LONG;
  strcpy(output->path, path);
  output->part[0] = 0;
  if ((code = follow(output, &descriptor)) != CDR_OK) return code;
  there = stat(output->path, &about) == 0;
  if (there && (S_ISDIR(about.st_mode) || S_ISBLK(about.st_mode) || S_ISSOCK(about.st_mode))) return CDR_NOT_A_FILE;
  if (there && S_ISREG(about.st_mode) && is_standard(&about)) return CDR_NOT_A_FILE;
  if (descriptor || (there && !S_ISREG(about.st_mode))) {
    output->fd = open(output->path, O_WRONLY | O_TRUNC);
    return output->fd < 0 ? CDR_CANNOT_WRITE : CDR_OK;
  }
  code = open_part(output);
  if (code == CDR_OK && there) (void)!fchmod(output->fd, about.st_mode & 07777);
  return code;
}

/* The rename is on the disk only when its folder is. */
static void sync_folder(char *path)
{
  size_t folder = folder_size(path);
  path[folder] = 0;
  int fd = open(folder ? path : ".", O_RDONLY);
  if (fd < 0) return;
  fsync(fd);
  close(fd);
}

int cdr_output_close(cdr_output *output, int failed)
{
  if (output->part[0]) failed |= fsync(output->fd) != 0;
  failed |= close(output->fd) != 0;
  if (!output->part[0]) return failed ? CDR_CANNOT_WRITE : CDR_OK;
  if (failed || rename(output->part, output->path) != 0) {
    unlink(output->part);
    return CDR_CANNOT_WRITE;
  }
  sync_folder(output->path);
  return CDR_OK;
}
#endif
