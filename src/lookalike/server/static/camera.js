// A picture from the camera; where there is none, or it is not allowed, a file is chosen.

export function startCamera(dialog, button, taken) {
  if (!navigator.mediaDevices?.getUserMedia) {
    button.hidden = true;
    return;
  }
  const video = dialog.querySelector("video");
  const stop = () => {
    video.srcObject?.getTracks().forEach((track) => track.stop());
    video.srcObject = null;
  };
  button.addEventListener("click", async () => {
    try {
      video.srcObject = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
      dialog.showModal();
    } catch {
      document.querySelector("#file").click();
    }
  });
  dialog.addEventListener("close", stop);
  dialog.querySelector("#close").addEventListener("click", () => dialog.close());
  dialog.querySelector("#take").addEventListener("click", () => {
    const canvas = Object.assign(document.createElement("canvas"), { width: video.videoWidth, height: video.videoHeight });
    canvas.getContext("2d").drawImage(video, 0, 0);
    dialog.close();
    canvas.toBlob((blob) => taken(blob), "image/jpeg", 0.92);
  });
}
